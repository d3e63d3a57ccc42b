"""What `diagnose` says of a step before it is taken, and `last_hyperparameters` after it."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from copy import deepcopy
from typing import Any

import numpy as np
import optree
import pytest

import anyoptim as ao
from tests.support.libraries import METHODS, Library, numpy_dtype, same_bits

pytestmark = pytest.mark.usefixtures("quickly")

RNG = np.random.default_rng(0)


def _row(optimizer: ao.Optimizer, params: Any, grads: Any, path: str = "w") -> ao.ParameterDiagnosis:
    (row,) = (row for row in optimizer.diagnose(params, grads) if row.path == path)
    return row


@pytest.mark.covering(1)  # whose norms are float64's, whatever the dtype, in engines/test_reduction.py
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_it_says_what_update_then_does(lib: Library, dtype: str) -> None:
    """Norms of gradient, parameter and step are those that float64 finds before and after the update."""
    shape = (3, 4)
    w, g = ((RNG.normal(size=shape) + 1j * RNG.normal(size=shape)) for _ in range(2))
    w, g = (x if dtype.startswith("complex") else x.real for x in (w, g))
    params, grads = ({"w": lib.asarray(x.astype(numpy_dtype(dtype)))} for x in (w, g))
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(lr=0.1), ao.EMA(0.9))
    for _ in range(lib.steps(2)):
        row = _row(optimizer, params, grads)
        wide = np.complex128 if dtype.startswith("complex") else np.float64
        before = lib.values(params)["w"].astype(wide)
        optimizer.update(params, grads)
        step = lib.values(params)["w"].astype(wide) - before
        assert row.shape == shape
        assert row.dtype == dtype
        assert row.gradient_norm == pytest.approx(np.linalg.norm(lib.values(grads)["w"].astype(wide)), rel=1e-12)
        assert row.parameter_norm == pytest.approx(np.linalg.norm(before), rel=1e-12)
        assert row.step_norm == pytest.approx(np.linalg.norm(step), rel=1e-5)  # JAX's later steps differ by ulps
        assert row.relative_step == row.step_norm / row.parameter_norm
        assert row.step_error < (0.1 if dtype in {"float16", "bfloat16"} else 1e-5)
        assert row.nonfinite == row.zeros == 0


@pytest.mark.parametrize("name", METHODS)
def test_nothing_changes(name: str) -> None:
    """Neither parameters nor state, before the first step or after, and the next update is that of a twin."""
    twins = [METHODS[name](), METHODS[name]()]
    trees: list[Any] = [{"w": np.arange(1.0, 7, dtype="f4"), "b": np.ones(2)} for _ in twins]
    grads = {"w": np.linspace(-1, 1, 6, dtype="f4"), "b": None}
    for _ in range(3):
        before: Any = deepcopy((trees[0], twins[0].state))
        twins[0].diagnose(trees[0], grads)
        after: Any = (trees[0], twins[0].state)
        assert all(map(same_bits, optree.tree_leaves(before), optree.tree_leaves(after)))
        for twin, params in zip(twins, trees, strict=True):
            twin.update(params, grads)
    assert all(map(same_bits, optree.tree_leaves(trees[0]), optree.tree_leaves(trees[1])))


def test_steps_that_vanish_and_cancel() -> None:
    """In bfloat16, numbers near 1 have a distance of 2**-7: a step of 2**-10 is lost, and of others a part."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    ones = {"w": np.ones(4, ml_dtypes.bfloat16)}
    row = _row(ao.SGD(1.0), ones, {"w": np.array([2.0**-10, 0.6 * 2**-8, 0.0, 0.25], ml_dtypes.bfloat16)})
    assert (row.vanishing, row.cancelling, row.zeros) == (1, 1, 1)
    assert "25% of it would not move: the steps are too small for bfloat16" in row.remark
    row = _row(ao.SGD(1.0), {"w": np.ones(4, "f4")}, {"w": np.full(4, 1e-9, "f4")})
    assert (row.vanishing, row.step_norm, row.step_error) == (4, 0.0, 1.0)
    assert row.exact_norm == pytest.approx(2e-9, rel=1e-6)
    assert "100% of it would not move" in row.remark


def test_what_is_odd_is_said() -> None:
    """Each remark, and none for what is usual."""
    params = {
        "dead": np.ones(2),
        "NaN": np.ones((2, 2)),
        "rest": np.ones(2),
        "large": np.ones(2),
        "small": np.ones(2),
        "usual": np.ones(2),
        "zero": np.zeros(2),
        "empty": np.ones(0),
    }
    grads = {
        "dead": np.zeros(2),
        "NaN": np.array([[0.0, 0.0], [np.nan, 0.0]]),
        "rest": None,
        "large": np.ones(2),
        "small": np.full(2, 1e-9),
        "usual": np.full(2, 1e-3),
        "zero": np.full(2, 1e-3),
        "empty": np.ones(0),
    }
    found = ao.SGD(1.0).diagnose(params, grads)
    assert found.remarks == {
        "dead": "its gradient is 0",
        "NaN": "1 of 4 elements not finite, the first at [1, 0]",
        "rest": "it rests",
        "large": "a step of 1 times the parameter is large",
        "small": "a step of 1e-09 times the parameter is small",
    }
    assert [row.relative_step for row in found if row.path == "zero"] == [math.inf]
    frozen = ao.chain(ao.SGD(ao.schedules.warmup(9, 1.0)), ao.groups({"usual": None, ...: {}}))
    assert frozen.diagnose(params, grads).remarks["usual"] == "it rests"
    assert frozen.diagnose(params, grads).remarks["large"] == "its step is 0"


def test_a_gradient_that_is_almost_all_zeros_is_odd() -> None:
    """As of `relu` with 49 of 50 units that are never active; half of them is usual."""
    for active, remark in ((1, "98% of its gradient is 0"), (25, "")):
        g = np.zeros((4, 50))
        g[:, :active] = 1e-3
        assert _row(ao.SGD(1.0), {"w": np.ones((4, 50))}, {"w": g}).remark == remark
    g = np.zeros((1, 1000))
    g[0, 0] = 1e-3
    assert _row(ao.SGD(1.0), {"w": np.ones((1, 1000))}, {"w": g}).remark == "99% of its gradient is 0"


def test_complex_elements_are_counted_as_one() -> None:
    """Not their parts: one with an infinite part, one that is 0; half of the parts being 0 is not odd."""
    w, g = np.ones(4, complex), np.array([complex(np.nan, np.inf), 0, 1e-3, 1e-3j])
    row = _row(ao.SGD(1.0), {"w": w}, {"w": g})
    assert (row.nonfinite, row.zeros) == (1, 1)
    assert row.remark == "1 of 4 elements not finite, the first at [0]"
    assert _row(ao.SGD(1.0), {"w": w}, {"w": np.full(4, 1e-3 + 0j)}).remark == ""


def test_rows_are_in_the_order_of_the_container() -> None:
    """From the first layer to the last, if they were put in so, also within others, and beside what isn't there."""
    w = np.ones(2)
    params = {"W1": w + 0, "b1": [w + 0, {"z": w + 0, "a": w + 0}], "W2": None, "A": (w + 0, 1.0)}
    grads = {"A": (w, 1.0), "W1": w, "b1": [w, {"a": w, "z": 2 * w}], "W2": None}
    rows = ao.SGD().diagnose(params, grads)
    assert [row.path for row in rows] == ["W1", "b1.0", "b1.1.z", "b1.1.a", "A.0", "A.1"]
    assert [row.gradient_norm for row in rows if row.path == "b1.1.z"] == [2 * 2**0.5]


def test_every_column_is_explained() -> None:
    """Where `help` of a row shows it, under the name that it has in the table, and the field's."""
    text = ao.ParameterDiagnosis.__doc__ or ""
    head = str(ao.SGD().diagnose(np.ones(2), np.ones(2))).splitlines()[0]
    columns = [column for column in head.split("  ") if column.strip()][2:]
    assert len(columns) == 9
    for column in columns:
        assert f"`{column.strip()}`" in text
    for field in ao.ParameterDiagnosis._fields[3:]:
        assert f"`{field}`" in text or field == "exact_norm"


def test_steps_that_would_not_be_taken() -> None:
    """A gate, a gate that gives up, a window that gathers, and no gradient: said above the table."""
    params, grads = {"w": np.ones(2)}, {"w": np.array([1.0, np.inf])}
    for gate in (ao.SkipNonFinite(), ao.SkipNonFinite(max_consecutive_skips=0), ao.LossScale()):
        found = ao.chain(gate, ao.SGD()).diagnose(params, grads)
        assert found.note == f"no step: {gate!r} would call it off"
        assert str(found).startswith("no step: ")
        assert found[0].step_norm == 0
        assert found[0].remark == "1 of 2 elements not finite, the first at [1]"
    windows = ao.chain(ao.Accumulate(2), ao.SGD())
    assert windows.diagnose(params, params).note == "no step: the gradients would only be gathered"
    windows.update(params, params)
    assert windows.diagnose(params, params).note == ""
    assert ao.SGD().diagnose(params, {"w": None}).note == "no step: there is no gradient"


def test_tied_parameters_and_containers() -> None:
    """One array under two names has one gradient and two rows; tuples, lists and bare arrays are containers."""
    w = np.ones(2)
    rows = ao.SGD(0.5).diagnose({"a": w, "b": w}, {"a": w, "b": None})
    assert [(row.path, row.step_norm) for row in rows] == [("a", 0.5 * 2**0.5), ("b", 0.5 * 2**0.5)]
    assert [row.path for row in ao.Adam().diagnose((w, [1.0, None]), (w, [1.0, None]))] == ["0", "1.0"]
    (bare,) = ao.Adam().diagnose(w, w)
    assert bare.path == ""
    assert "(params)" in str(ao.Adam().diagnose(w, w))


def test_errors_are_those_of_update() -> None:
    with pytest.raises(ValueError, match=r"params\['w'\] has shape \(2,\) but grads\['w'\] has shape \(3,\)"):
        ao.SGD().diagnose({"w": np.ones(2)}, {"w": np.ones(3)})
    jax = pytest.importorskip("jax")
    with pytest.raises(TypeError, match="params is traced; wanted diagnose outside of the transformed function"):
        jax.jit(lambda w: ao.SGD().diagnose(w, w))(jax.numpy.ones(2))


def test_whole_array_methods_and_partitions() -> None:
    """What runs on whole matrices, and several methods at once."""
    params = {"W": RNG.normal(size=(4, 3)).astype("f4"), "b": np.ones(3, "f4")}
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.partition({"W": ao.Muon(), "b": ao.AdamW()}))
    for _ in range(2):
        rows = optimizer.diagnose(params, params)
        assert all(0 < row.step_norm < math.inf for row in rows)
        assert all(row.step_error < 1e-3 for row in rows)
        optimizer.update(params, params)


def test_the_table_and_the_picture() -> None:
    """Plain text has a line for each parameter; rich's print and matplotlib take the same data."""
    found = ao.SGD(1.0).diagnose({"W": np.ones(2), "b": np.ones(3)}, {"W": np.full(2, 1e-3), "b": np.ones(3)})
    head, *lines = str(found).splitlines()
    assert head.split()[:5] == ["parameter", "dtype", "|g|", "|w|", "|step|"]
    assert [line.split()[:2] for line in lines] == [["W", "float64"], ["b", "float64"]]
    assert lines[1].endswith("a step of 1 times the parameter is large")
    console = pytest.importorskip("rich.console", reason="rich prints the table")
    file = io.StringIO()
    console.Console(width=100, file=file).print(found)
    assert "b: a step of 1 times the parameter is large" in file.getvalue()
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib draws the picture")
    pyplot.switch_backend("agg")
    ax = found.plot()
    assert ax.get_lines()[0].get_xdata().tolist() == [row.gradient_norm for row in found]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["W", "b"]
    assert "not finite" not in [line.get_label() for line in ax.get_lines()]
    assert found.plot(ax) is ax
    grads = {"W": np.full(2, np.nan), "a": None, "b": np.ones(3)}
    marks = ao.SGD().diagnose({"W": np.ones(2), "a": np.ones(2), "b": np.ones(3)}, grads).plot().get_lines()[-1]
    assert marks.get_label() == "not finite"
    assert marks.get_ydata().tolist() == [0]
    pyplot.close("all")


def test_it_costs_nothing_until_it_is_asked_for() -> None:
    """Neither rich nor matplotlib comes along, even with a diagnosis that is printed as text."""
    code = """
import sys
import numpy as np, anyoptim as ao
assert "anyoptim._diagnosis._diagnose" not in sys.modules
print(ao.SGD().diagnose(np.ones(2), np.ones(2)))
assert not {"rich", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_last_hyperparameters_of_a_method() -> None:
    """A schedule's value at the number of the last step, also of steps that are replayed."""
    optimizer = ao.Momentum(lr=lambda t: 0.1 / t)
    w = np.ones(3)
    assert optimizer.last_hyperparameters == {}
    for t in range(1, 6):
        optimizer.update(w, w)
        assert optimizer.last_hyperparameters == {"lr": 0.1 / t, "momentum": 0.9}
    optimizer.momentum = 0.5
    assert optimizer.last_hyperparameters["momentum"] == 0.5


def test_last_hyperparameters_of_chains_and_groups() -> None:
    """Names that several stages have are preceded by the class, or by the place; groups stand beside."""
    lr = ao.schedules.Linear(0.1, 10, 0.0)
    optimizer = ao.chain(
        ao.WeightDecay(0.1),
        ao.SGD(lr),
        ao.EMA(0.9),
        ao.EMA(0.99),
        ao.groups({"b": {"lr": lambda t: t}, "c": None, ...: {}}),
    )
    params = {name: np.ones(2) for name in "abc"}
    for _ in range(3):
        optimizer.update(params, params)
    assert optimizer.last_hyperparameters == {
        "WeightDecay.decay": 0.1,
        "lr": lr(3),
        "stages[2].decay": 0.9,
        "stages[3].decay": 0.99,
        "groups": {"b": {"lr": 3.0}, "c": None, ...: {}},
    }
    several = ao.partition({"a": ao.SGD(0.5), ...: ao.Momentum(lr)})
    several.update(params, params)
    assert several.last_hyperparameters == {"SGD.lr": 0.5, "Momentum.lr": lr(1), "momentum": 0.9}


def test_last_hyperparameters_are_those_that_a_parameter_used() -> None:
    """What every group that moves has of its own, under either name, stands in the groups alone."""
    params = {name: np.ones(2) for name in "abc"}
    of = {"a": {"lr": 0.1}, "b": {"SGD.lr": 0.2}, "c": None}
    optimizer = ao.chain(ao.WeightDecay(0.1), ao.SGD(0.5), ao.groups(of))
    optimizer.update(params, params)
    assert optimizer.last_hyperparameters == {"decay": 0.1, "groups": of}
    several = ao.chain(
        ao.partition({"a": ao.SGD(0.5), ...: ao.Momentum(0.5)}), ao.groups({"a": {"lr": 0.1}, ...: {"lr": 0.2}})
    )
    several.update(params, params)
    assert several.last_hyperparameters == {"momentum": 0.9, "groups": {"a": {"lr": 0.1}, ...: {"lr": 0.2}}}


def test_last_hyperparameters_count_steps_and_no_updates() -> None:
    """Windows that gather, and steps that a gate calls off, are none; a state that is loaded has its number."""
    optimizer = ao.chain(ao.Accumulate(2), ao.SkipNonFinite(), ao.SGD(lambda t: t))
    w = np.ones(2)
    optimizer.update(w, w)
    assert optimizer.last_hyperparameters == {}
    for _ in range(3):
        optimizer.update(w, w)
    assert optimizer.last_hyperparameters["lr"] == 2
    for _ in range(2):
        optimizer.update(w, np.full(2, np.nan))
    assert optimizer.last_hyperparameters["lr"] == 2
    again = ao.chain(ao.Accumulate(2), ao.SkipNonFinite(), ao.SGD(lambda t: t))
    again.load_state_dict(optimizer.state_dict(), w)
    assert again.last_hyperparameters["lr"] == 2
