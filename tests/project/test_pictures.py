"""The pictures in docs/ are those that the examples draw today."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from tests.support import pictures

TOLERANCE = 0.1
"""How far a mark may be from where it is in docs/, as a share of its axes: machines add in different orders."""


def _stale(committed: Path, fresh: Path) -> str:
    old, new = pictures.shown(committed), pictures.shown(fresh)
    if old["texts"] != new["texts"]:
        return "the texts"
    if [color for color, _ in old["marks"]] != [color for color, _ in new["marks"]]:
        return "the marks or their colours"
    far = [float(np.abs(np.subtract(a, b)).max()) for (_, a), (_, b) in zip(old["marks"], new["marks"], strict=True)]
    return "the places of marks" if max(far) > TOLERANCE else ""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.product if name in {"train_digits", "uncertainty"} else ())
        for name in pictures.PICTURES
    ],
)
def test_no_picture_is_stale(name: str, tmp_path: Path) -> None:
    """Drawn again it has the same texts, and the same lines, points and areas in the same places."""
    pictures.draw(name, tmp_path / "fresh.png")
    differs = _stale(pictures.PICTURES[name], tmp_path / "fresh.png")
    assert not differs, (
        f"{differs} of {pictures.PICTURES[name].name} are stale; python -m tests.support.pictures draws it"
    )


@pytest.mark.parametrize("changed", ["texts", "colours", "places"])
def test_what_is_stale_is_said(changed: str, tmp_path: Path) -> None:
    """A title, a colour or a line's place that is another one is noticed."""
    path = pictures.PICTURES["optimizer_paths"]
    shown = pictures.shown(path)
    assert len(shown["marks"]) == 4 * 4
    if changed == "texts":
        shown["texts"][0] = shown["texts"][0].replace("30", "31")
    elif changed == "colours":
        shown["marks"][0][0] = "#000000"
    else:
        shown["marks"][0][1][-1] += 0.2
    described = PIL.PngImagePlugin.PngInfo()
    described.add_text(pictures.KEY, json.dumps(shown))
    with PIL.Image.open(path) as image:
        image.save(tmp_path / "other.png", pnginfo=described)
    assert changed in _stale(path, tmp_path / "other.png")
    assert _stale(path, path) == ""
