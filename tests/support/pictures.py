"""The pictures in docs/ that the examples draw, and what they show, which is kept in them to tell when one is stale.

`python -m tests.support.pictures` draws them; tests/project/test_pictures.py draws them again, and compares.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

__all__ = ["PICTURES", "draw", "example", "shown"]

ROOT = Path(__file__).parents[2]
PICTURES = {
    "constraints": ROOT / "docs" / "constraints.png",
    "object_and_probe": ROOT / "docs" / "object_and_probe.png",
    "optimizer_paths": ROOT / "docs" / "optimizer_paths.png",
    "train_digits": ROOT / "docs" / "learning_curves.png",
    "uncertainty": ROOT / "docs" / "uncertainty.png",
}
"""By the example that draws it."""

KEY = "Description"
POINTS = 17
"""Of a line so many are kept, from end to end."""

Shown = dict[str, Any]


def example(name: str) -> ModuleType:
    """The module of an example."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(name: str, path: Path) -> None:
    """Run an example with its defaults."""
    with _described():
        example(name).main(["--output", str(path)])


def shown(path: Path) -> Shown:
    """What a picture shows. Raises KeyError where nobody wrote that down."""
    with PIL.Image.open(path) as image:
        found: Shown = json.loads(image.info[KEY])
    return found


@contextmanager
def _described() -> Iterator[None]:
    save = Figure.savefig

    def described(figure: Figure, path: str) -> None:
        save(figure, path, metadata={KEY: json.dumps(_shown(figure))})

    with mock.patch.object(Figure, "savefig", described):
        yield


def _shown(figure: Figure) -> Shown:
    """The texts, and each mark's colour and places, as shares of its axes from the lower left corner.

    Of an image it is some of its values, as shares of its range of colours.
    """
    texts, marks = [text.get_text() for text in figure.texts], []
    for axes in figure.axes:
        titles = [axes.get_title(where) for where in ("left", "center", "right")]
        texts += [*titles, axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)]
        texts += axes.get_legend_handles_labels()[1]
        marks += [mark for artist in axes.get_children() if (mark := _mark(axes, artist))]
    # A number beside a bar belongs to the bar, which has a tolerance.
    return {"texts": [text for text in texts if text and not text.isdecimal()], "marks": marks}


def _mark(axes: Axes, artist: Artist) -> tuple[str, list[float]] | None:
    places: Any
    color: Any
    if isinstance(artist, Line2D) and artist.get_transform() == axes.transData:
        places, color = artist.get_xydata(), artist.get_color()
    elif isinstance(artist, PathCollection):
        places, color = artist.get_offsets(), artist.get_facecolor()[0]
    elif isinstance(artist, PolyCollection):
        places, color = artist.get_paths()[0].vertices, artist.get_facecolor()[0]
    elif isinstance(artist, AxesImage):
        low, high = artist.get_clim()
        values = (np.ravel(np.asarray(artist.get_array())) - low) / (high - low)
        return "image", values[np.linspace(0, len(values) - 1, POINTS).round().astype(int)].round(3).tolist()
    elif isinstance(artist, Rectangle) and artist is not axes.patch:
        places, color = artist.get_corners(), artist.get_facecolor()
    else:
        return None
    some = np.asarray(places)[np.linspace(0, len(places) - 1, POINTS).round().astype(int)]
    shares = axes.transAxes.inverted().transform(axes.transData.transform(some))
    return to_hex(color), np.clip(shares, -1, 2).round(3).ravel().tolist()


def main() -> None:
    """Draw all of them anew."""
    for name, path in PICTURES.items():
        draw(name, path)


if __name__ == "__main__":
    main()
