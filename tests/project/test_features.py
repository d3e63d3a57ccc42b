"""The tables in docs/features.md: nothing is claimed that is not there, and nothing of ours or theirs is forgotten."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import pytest

import anyoptim as ao
from benchmarks.report import between_markers
from tests.support.features import CHECKED, FEATURES, NOT_HERE, PAGE, PEERS, names, text
from tests.support.libraries import COMPLEX, DISCOVERED, HALF, LOADERS, REAL, Library

NAME = re.compile(r"([\w.]+)(?:\((\w+(?:, \w+)*)\))?")


def _split(name: str) -> tuple[str, list[str]]:
    found = NAME.fullmatch(name)
    assert found, name
    return found[1], found[2].split(", ") if found[2] else []


def _cells(table: Any, column: str) -> list[str]:
    return [name for rows in table.values() for row in rows for name in names(getattr(row, column))]


def _resolve(module: Any, name: str) -> Any:
    """What has that name; the arguments it names are its own."""
    path, arguments = _split(name)
    for part in path.split("."):
        module = getattr(module, part)
    assert set(arguments) <= set(inspect.signature(module).parameters if arguments else []), name
    return module


def _peer(name: str, need: Callable[[str], Library]) -> Any:
    if name == "torch":
        need(name)
    if name == "keras":
        need("jax")  # which conftest.py has it compute with
    return pytest.importorskip(name, reason=f"{name} is not installed")


def _exported() -> dict[str, Any]:
    """The methods, stages and schedules."""
    bases = {ao.Stage, ao.Gate, ao.GradientStage, ao.ParameterStage, ao.SlotStage, ao.Optimizer}
    stages = {
        name: value
        for name, value in vars(ao).items()
        if isinstance(value, type) and issubclass(value, ao.Stage) and value not in bases
    }
    return {
        **DISCOVERED,
        **stages,
        **{f"prox.{name}": getattr(ao.prox, name) for name in ao.prox.__all__},
        **{f"schedules.{name}": getattr(ao.schedules, name) for name in ao.schedules.__all__ if name != "scalars"},
    }


def test_everything_in_the_table_is_there() -> None:
    """Each name is found in anyoptim; none has two rows."""
    rows = _cells(FEATURES, "anyoptim")
    for name in rows:
        _resolve(ao, name)
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("name", _exported())
def test_everything_of_ours_is_in_the_table(name: str) -> None:
    """Each method, stage and schedule has a row."""
    where = "METHODS in tests/reference/methods.py" if name in DISCOVERED else "FEATURES in tests/support/features.py"
    assert name in {_split(cell)[0] for cell in _cells(FEATURES, "anyoptim")}, f"wanted a row for {name} in {where}"


@pytest.mark.parametrize("peer", PEERS)
def test_what_peers_have_is_there(peer: str, need: Callable[[str], Library]) -> None:
    """Each name, with its arguments, of rows and of what is not here, in a version no older than is said."""
    module = _peer(peer, need)
    version = importlib.metadata.version(peer)
    assert _numbers(version) >= _numbers(CHECKED[peer]), version
    absent = [name for absence in NOT_HERE for name in names(getattr(absence, peer))]
    for name in (*_cells(FEATURES, peer), *absent):
        _resolve(module, name)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def _subclasses(prefix: str, module: ModuleType, base: type) -> Iterator[str]:
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, base) and value is not base and not name.startswith("_"):
            yield f"{prefix}.{name}"


def _torch(torch: Any) -> set[str]:
    schedulers = torch.optim.lr_scheduler
    wanted = {*_subclasses("optim", torch.optim, torch.optim.Optimizer)}
    return wanted | {f"optim.lr_scheduler.{name}" for name in schedulers.__all__ if name != "LRScheduler"}


def _optax(optax: Any) -> set[str]:
    """What takes a learning rate and is no stage, and what is called a schedule."""
    rates = {"learning_rate", "max_learning_rate"}
    return {
        f"{prefix}{name}"
        for prefix, module in (("", optax), ("contrib.", optax.contrib))
        for name, value in vars(module).items()
        if not name.startswith(("_", "scale_by_")) and (inspect.isfunction(value) or isinstance(value, partial))
        if name.endswith(("_schedule", "_schedules", "_decay")) or rates & set(inspect.signature(value).parameters)
    }


def _keras(keras: Any) -> set[str]:
    optimizers = keras.optimizers
    return {
        *_subclasses("optimizers", optimizers, optimizers.Optimizer),
        *_subclasses("optimizers.schedules", optimizers.schedules, optimizers.schedules.LearningRateSchedule),
    }


EXPORTS: dict[str, Callable[[Any], set[str]]] = {"torch": _torch, "optax": _optax, "keras": _keras}


@pytest.mark.parametrize("peer", PEERS)
def test_nothing_of_theirs_is_forgotten(peer: str, need: Callable[[str], Library]) -> None:
    """Each optimizer and schedule that a peer exports is in a row, or is said not to be here; never both."""
    exported = EXPORTS[peer](_peer(peer, need))
    assert len(exported) > 10
    rows = {_split(name)[0] for name in _cells(FEATURES, peer)}
    absent = {name for absence in NOT_HERE for name in names(getattr(absence, peer))}
    forgotten, twice, invented = exported - rows - absent, rows & absent, absent - exported
    assert not forgotten, forgotten
    assert not twice, twice
    assert not invented, invented


def test_the_page_has_the_table() -> None:
    """As `python -m tests.support.features` writes it."""
    page = PAGE.read_text(encoding="utf-8")
    assert between_markers(page, text(), "features") == page, "wanted `python -m tests.support.features`"


def test_names_are_told_apart() -> None:
    """At commas, but not at those between arguments."""
    assert list(names("a.b(c, d), e, f(g)")) == ["a.b(c, d)", "e", "f(g)"]
    assert list(names("")) == []
    with pytest.raises(AssertionError):
        _resolve(ao, "Adam(nesterov)")
    with pytest.raises(AttributeError):
        _resolve(ao, "schedules.Nothing")


ROWS = {
    "NumPy": ["numpy"],
    "array-api-strict": ["strict"],
    "torch, CPU": ["torch"],
    "JAX, CPU": ["jax", "jax-x64"],
    "Dask": ["dask"],
    "MLX, CPU": ["mlx"],
    "CuPy": ["cupy"],
    "torch, CUDA": ["torch-cuda"],
}


def _table() -> dict[str, list[str]]:
    section = PAGE.read_text(encoding="utf-8").partition("## What works where")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def test_what_works_where_has_every_library() -> None:
    """No row is forgotten and none invented."""
    assert list(_table()) == list(ROWS)
    assert sorted(name for names in ROWS.values() for name in names) == sorted({*LOADERS} - {"cuda-shim"})


@pytest.mark.parametrize("row", ROWS)
def test_what_works_where_is_what_the_tests_run(row: str, need: Callable[[str], Library]) -> None:
    """Dtypes and in-place or replaced, as in the table that all tests run over."""
    cells = _table()[row]
    libraries = [need(name) for name in ROWS[row]]
    dtypes = {dtype for lib in libraries for dtype in lib.dtypes}
    for cell, group in zip(cells[:4], (REAL, HALF[:1], HALF[1:], COMPLEX), strict=True):
        assert cell.startswith("yes") == (set(group) <= dtypes)
    assert cells[4].startswith("in place") == libraries[0].writable
    same = libraries[0].exact or bool(libraries[0].reached)
    assert ("same bits" in cells[5] or "reference" in cells[5]) == same
