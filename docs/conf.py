"""The documentation's site: `python -m sphinx -W docs OUT` builds it, with what `pip install '.[docs]'` brings.

Pages of methods and of public names are made of the package as it is (docs/_ext), the gallery of examples/.
"""

import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "anyoptim"
author = copyright = "The anyoptim developers"  # noqa: A001 - Sphinx's name for it
release = version = metadata.version("anyoptim")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "method_pages",
    "reference_pages",
]
exclude_patterns = ["_ext", "_static", "_build"]
suppress_warnings = ["config.cache"]  # the gallery is configured with functions, which no cache can keep

# Links are checked: those to pages and headings by MyST, those to names in full by this. Types in signatures are often
# of other packages, whose pages are not asked for, because the build needs no network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!anyoptim\.).*"), (r"py:.*", r"anyoptim\..*\b_\w+.*")]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
add_module_names = False
napoleon_numpy_docstring = False
default_role = "public"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": str(HERE.parent / "examples"),
    "gallery_dirs": "gallery",
    # Only shown are one that takes a minute and a half, and one that wants JAX with eight devices.
    "filename_pattern": r"/(?!recurrent_digits|mesh_of_devices)\w+\.py$",
    "image_scrapers": ("example_pages.pictures",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,  # those of one build on one machine say little
    "remove_config_comments": True,
}

html_theme = "furo"
html_title = "anyoptim"
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
