"""Results, what is kept of each step, callbacks and the progress bar."""

from __future__ import annotations

import io
import math
import subprocess
import sys

import numpy as np
import pytest

from anyoptim._search._progress import bar
from anyoptim.solvers import Callbacks, Condition, History, Progress, Record, Result, Stop, Store
from tests.support.libraries import Library


def _result(values: list[float], converged: bool = True) -> Result:
    nan = math.nan
    records = [Record(v, 2 * abs(v), nan if k == 0 else 0.5, 2 * k + 1, 0.25 * k) for k, v in enumerate(values)]
    steps, evaluations = len(values) - 1, records[-1].evaluations
    return Result({"w": np.zeros(2)}, values[-1], steps, evaluations, converged, "there is no more", History(records))


def test_the_columns_of_a_history() -> None:
    """A list of records, whose columns are lists as well."""
    history = _result([4.0, 1.0, 0.25]).history
    assert history[1] == Record(1.0, 2.0, 0.5, 3, 0.25)
    assert history.value == [4.0, 1.0, 0.25]
    assert history.gradient_norm == [8.0, 2.0, 0.5]
    assert history.step_length[1:] == [0.5, 0.5]
    assert history.evaluations == [1, 3, 5]
    assert history.seconds == [0.0, 0.25, 0.5]
    history.append(Record(0.0, 0.0, 1.0, 6, 0.75))
    assert history.value[-1] == 0.0


def test_the_table() -> None:
    """A sentence that says how it ended, and a line for some of the steps, always for the first and the last."""
    head, columns, *lines = str(_result([1.0 / (1 + k) for k in range(124)])).splitlines()
    assert head == "converged after 123 steps and 247 evaluations, at the value 0.00806452: there is no more"
    assert columns.split() == ["step", "evaluations", "value", "|g|", "step", "length", "seconds"]
    assert [int(line.split()[0]) for line in lines] == [0, 1, 2, 5, 10, 20, 50, 100, 123]
    assert len({len(line) for line in (columns, *lines)}) == 1
    assert lines[1].split() == ["1", "3", "0.5", "1", "0.5", "0.25"]
    assert lines[0].split() == ["0", "1", "1", "2", "0.00"]
    assert str(_result([2.0, 1.0], converged=False)).startswith(
        "stopped after 1 step and 3 evaluations, at the value 1: "
    )


def test_the_picture() -> None:
    """Value and |g| over evaluations; logarithmic where it can be; what is not finite, or 0, leaves a gap."""
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib draws the picture")
    pyplot.switch_backend("agg")
    result = _result([4.0, 1.0, math.inf, 0.25])
    ax = result.plot()
    (line,) = ax.get_lines()
    assert line.get_xdata().tolist() == [1, 3, 5, 7]
    assert np.array_equal(line.get_ydata(), [4.0, 1.0, math.nan, 0.25], equal_nan=True)
    assert ax.get_yscale() == "log"
    (other,) = ax.figure.axes[1].get_lines()
    assert np.array_equal(other.get_ydata(), [8.0, 2.0, math.nan, 0.5], equal_nan=True)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["value", "|g|"]
    _, mine = pyplot.subplots()
    assert _result([1.0, 0.0, -1.0]).plot(mine) is mine
    assert mine.get_yscale() == "linear"
    assert _result([1.0, 0.0]).plot().get_yscale() == "linear"
    assert math.isnan(mine.figure.axes[1].get_lines()[0].get_ydata()[1])
    ax.figure.canvas.draw()
    mine.figure.canvas.draw()
    pyplot.close("all")


def test_no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        _result([1.0]).plot()


def test_store_keeps_copies(lib: Library) -> None:
    """Of arrays of each library, in their container; what moves in place later does not move in them."""
    store = Store(every=2)
    params = {"w": lib.asarray(np.arange(3.0)), "b": [None, 1.5]}
    result = _result([1.0])._replace(params=params)
    for steps in range(4):
        store(result._replace(steps=steps))
    params["w"] = lib.asarray(np.zeros(3)) if not lib.writable else params["w"]
    if lib.writable:
        params["w"][...] = 0
    assert [*store.params] == [0, 2]
    for kept in store.params.values():
        assert lib.values({"w": kept["w"]})["w"].tolist() == [0.0, 1.0, 2.0]
        assert kept["b"] == [None, 1.5]
    assert repr(store) == "Store(every=2)"


def test_callbacks_are_all_called() -> None:
    """In order, also the ones behind one that ends the run; what else is raised goes through."""
    called = []

    def ends(result: Result) -> None:
        called.append("ends")
        raise StopIteration

    store = Store()
    with pytest.raises(StopIteration):
        Callbacks(ends, store, lambda result: called.append("last"))(_result([1.0]))
    assert called == ["ends", "last"]
    assert [*store.params] == [0]
    with pytest.raises(ZeroDivisionError):
        Callbacks(lambda result: 1 / 0, ends)(_result([1.0]))
    with pytest.raises(TypeError, match=r"callback 1 is 3; wanted a function of a result"):
        Callbacks(store, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"every is 0; wanted at least 1"):
        Store(every=0)
    assert repr(Callbacks(store)) == "Callbacks(Store(every=1))"


def _shown(stop: Condition, steps: int = 40) -> str:
    """What a bar leaves on stderr."""
    file = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        with bar(stop) as show:
            for k in range(steps + 1):
                show(Progress(value=1 / (k + 1), gradient_norm=2 / (k + 1), steps=k))
    return file.getvalue()


def _hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if they were not installed, also where they were imported before."""
    for package in packages:
        for module in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, module, None)


_LAST = "step 40, value 0.0243902, |g| 0.0488"


@pytest.mark.parametrize("package", ["tqdm", "rich"])
def test_a_bar_of(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows the last step, and with a limit its share; also where there was no step."""
    pytest.importorskip(package, reason=f"{package} draws the bar")
    _hide(monkeypatch, {"tqdm": "rich", "rich": "tqdm"}[package])
    limited = _shown(Stop(steps=40))
    assert _LAST in limited
    assert ("100%" in limited) if package == "tqdm" else ("\N{BOX DRAWINGS HEAVY HORIZONTAL}" in limited)
    assert _LAST in _shown(Stop(gtol=1))
    with bar(Stop()):
        pass


def test_a_line_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without both, one line that is overwritten, now and then, and for the last step at the end."""
    _hide(monkeypatch, "tqdm", "rich")
    limited = _shown(Stop(steps=40))
    first, *_, last = limited.rstrip().split("\r")[1:]
    assert first == "  0% step 0, value 1, |g| 2"
    assert last == f"100% {_LAST}"
    assert limited.endswith("\n")
    assert limited.count("\r") < 10
    assert _shown(Stop(gtol=1)).rstrip().split("\r")[-1] == _LAST
    with bar(Stop()):
        pass


def test_it_costs_nothing_until_it_is_asked_for() -> None:
    """Neither tqdm, rich nor matplotlib comes along with the solvers."""
    code = "import sys, anyoptim.solvers; assert not {'tqdm', 'rich', 'matplotlib', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
