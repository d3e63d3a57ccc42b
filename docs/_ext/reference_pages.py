"""The reference: a page for each public module with all of its names, made before Sphinx reads, and links to them."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import anyoptim as ao
from tests.support.public import MODULES, NAMES, about

__all__ = ["heading", "setup", "table", "written"]

INTRODUCTION = """\
Every public name, with its equation, arguments, errors and source, and an example that the tests run. The examples
assume these two lines::

    import numpy as np
    import anyoptim as ao

The methods have a page each: :doc:`../methods/index`.

"""


def written(path: Path, text: str) -> None:
    """Write a page, but leave one alone that is as it should be: Sphinx reads again what is newer."""
    path.parent.mkdir(exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def heading(text: str, line: str = "=") -> str:
    """A title in reStructuredText."""
    return f"{text}\n{line * len(text)}\n\n"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in reStructuredText, of cells of one line."""
    cells = (f"   {' ' if k else '*'} - {cell}\n" for row in rows for k, cell in enumerate(row))
    return f".. list-table::\n   :class: names\n\n{''.join(cells)}\n"


def _plain(lines: Sequence[str]) -> Iterator[str]:
    """Lines of a docstring, in which |p| is a norm and not, as reStructuredText has it, the name of another text.

    What is indented below a `::`, code behind a prompt and what stands between backticks is nothing of either.
    """
    literal = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and literal is not None and indent <= literal:
            literal = None
        if literal is not None or line.lstrip().startswith((">>>", "...")):
            yield line
            continue
        parts = re.split(r"(`[^`]*`)", line)
        yield "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)
        if line.endswith("::"):
            literal = indent


def _summary(text: str) -> str:
    return "".join(_plain([text.partition("\n")[0]]))


def _module(name: str) -> str:
    """The public module whose page has a name: of those that have it, the one furthest in."""
    attribute = name.rpartition(".")[2]
    lists = {module: importlib.import_module(module) for module in MODULES}
    having = [
        module for module, of in lists.items() if attribute in of.__all__ and getattr(of, attribute) is NAMES[name]
    ]
    return max(having, key=lambda module: module.count("."))


def _entry(name: str) -> str:
    value = NAMES[name]
    if inspect.isfunction(value):
        return f".. autofunction:: {name}\n\n"
    if inspect.isclass(value):
        # What a stage declares is for engines to read, not for users to call.
        members = not issubclass(value, ao.Stage) or _module(name) == "anyoptim"
        options = "   :members:\n" if members else ""
        if issubclass(value, ao.layers.Layer):
            options += "   :inherited-members:\n   :exclude-members: arguments, domain, pure\n"
        elif value is not ao.Stage:
            options += "   :exclude-members: hyperparameters\n"  # each class has its own
        return f".. autoclass:: {name}\n{options}\n"
    module, _, attribute = name.rpartition(".")
    text = textwrap.indent("\n".join(_plain(about(name).splitlines())), "   ")
    return f".. py:data:: {attribute}\n   :module: {module}\n\n{text}\n\n"


def _anchor(module: str, name: str) -> str:
    """Places for the longer name, too, and its methods: viewcode leads to a file's names as the first is called."""
    longer, value = f"{module}.{name.rpartition('.')[2]}", NAMES[name]
    if longer == name:
        return ""
    methods = [key for key, of in vars(value).items() if inspect.isfunction(of)] if inspect.isclass(value) else []
    places = [longer, *(f"{longer}.{key}" for key in methods if not key.startswith("_"))]
    spans = "".join(f'<span id="{place}"></span>' for place in places)
    return f".. raw:: html\n\n   {spans}\n\n"


def _page(module: str) -> str:
    """The page of a module: its names in the order in which they come in, so that what belongs together stands so."""
    of = importlib.import_module(module)
    order = [*dict.fromkeys([*vars(of), *of.__all__])]  # some are imported when they are asked for
    names = [name for name in NAMES if _module(name) == module]
    # What has no shorter name comes first, so that viewcode takes the longer one for all of a file.
    names.sort(key=lambda name: (-name.count("."), order.index(name.rpartition(".")[2])))
    rows = [(f":py:obj:`~{name}`", _summary(about(name))) for name in names]
    parts = [
        heading(module),
        f".. automodule:: {module}\n\n",
        table(rows) if rows else "",
        *(f"{_anchor(module, name)}{_entry(name)}" for name in names),
    ]
    return "".join(parts)


def generate(app: Sphinx) -> None:
    """Write the pages; `anyoptim.optimizers` has those of the methods instead."""
    folder = Path(app.srcdir) / "reference"
    modules = [module for module in MODULES if module != "anyoptim.optimizers"]
    for module in modules:
        written(folder / f"{module}.rst", _page(module))
    rows = [(f":doc:`{m} <{m}>`", _summary(importlib.import_module(m).__doc__ or "")) for m in modules]
    toctree = "".join(f"   {module}\n" for module in modules)
    index = heading("Reference") + INTRODUCTION + table(rows) + f".. toctree::\n   :hidden:\n\n{toctree}"
    written(folder / "index.rst", index)


def public(
    role: str, raw: str, text: str, line: int, inliner: Any, options: Any = None, content: Any = None
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """A name between single backticks, as docstrings have it: a link where it is public, and code in any case."""
    env = inliner.document.settings.env
    code = nodes.literal(raw, text, classes=["py"])
    name = text.removeprefix("ao.").removeprefix("anyoptim.")
    within = env.ref_context.get("py:module") or "anyoptim"
    places = f"anyoptim.{name}", f"{within}.{name}", f"anyoptim.stages.{name}"  # ao.prox is a module of the stages
    found = [full for full in places if full in NAMES]
    if not found:
        return [code], []
    target = {"refdomain": "py", "reftype": "obj", "reftarget": found[0], "refdoc": env.docname, "refexplicit": True}
    return [addnodes.pending_xref(raw, code, **target)], []


AS_WRITTEN: dict[str, list[str]] = {}
"""The docstrings of attributes."""


def _before_napoleon(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = _plain(list(lines))
    if lines and lines[0].startswith("Alias for field number"):  # of a NamedTuple, where no more is to be said
        lines.clear()
    if what in {"attribute", "property"}:
        AS_WRITTEN[name] = list(lines)


def _after_napoleon(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """It takes what stands before the first colon for a type."""
    lines[:] = AS_WRITTEN.get(name, lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's way in."""
    app.add_role("public", public)
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    return {"parallel_read_safe": True}
