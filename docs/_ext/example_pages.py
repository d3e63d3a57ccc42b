"""The gallery: each example is run as a script where it lies, and its picture goes from there to its page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sphinx_gallery.scrapers import figure_rst

__all__ = ["pictures"]

BEGIN = time.time()


def pictures(block: Any, script: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The pictures that an example has made."""
    example = Path(script["src_file"])
    made = [picture for picture in sorted(example.parent.glob("*.png")) if picture.stat().st_mtime >= BEGIN]
    moved = [shutil.move(picture, script["image_path_iterator"].next()) for picture in made]
    return str(figure_rst(moved, config["src_dir"], example.stem.replace("_", " "))) if moved else ""
