"""Ranks that have parts of the same arrays: the bits of one process, and errors on all of them or on none."""

from __future__ import annotations

import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support import mpi
from tests.support.chains import CHAINS, matrices
from tests.support.internals import meeting, ranks_room
from tests.support.libraries import ENGINES, METHODS, WHOLE, Library, same_bits
from tests.support.ranks import Cuts, ThreadComm, all_of, run, slabs, whole

pytestmark = pytest.mark.usefixtures("quickly")

Make = Callable[[ao.EngineName | None], ao.Optimizer]

SHAPES = {"W": (7, 5), "T": (2, 3, 4), "b": (6,)}
CUTS: dict[str, Cuts] = {
    "rows": {"W": (0, [3, 4]), "T": (0, [1, 2]), "b": (0, [1, 4])},
    "other axes, some without any": {"W": (1, [2, 2]), "T": (2, [1, 3]), "b": (0, [0, 6])},
}
STAGES: dict[str, Make] = {
    "gates": lambda e: ao.chain(
        ao.Accumulate(2), ao.LossScale(initial=4.0, interval=2), ao.SkipNonFinite(), ao.Adam(lr=0.1), engine=e
    ),
    "metrics": lambda e: ao.chain(ao.Metrics(), ao.ClipNorm(0.5), ao.Momentum(lr=0.1), engine=e),
    "groups": lambda e: ao.chain(
        ao.groups({"b": {"lr": 0.5}, ...: {}}),
        ao.ClipGlobalNorm(1.0),
        ao.WeightDecay(0.1, where=matrices),
        ao.Adam(lr=0.1),
        engine=e,
    ),
    "partition": lambda e: ao.chain(
        ao.ClipGlobalNorm(1.0), ao.partition({"b": ao.LAMB(lr=0.1), "T": None, ...: ao.Prodigy(lr=0.1)}), engine=e
    ),
}
MADE = CHAINS | STAGES | {name: lambda e, of=of: of(engine=e) for name, of in METHODS.items()}


def _drawn(rng: np.random.Generator, dtype: str = "float32") -> dict[str, Any]:
    """Arrays whose parts are of very different sizes, so that norms of parts begin with other digits."""
    found = {}
    for name, shape in SHAPES.items():
        a = rng.normal(size=shape) * np.exp(rng.normal(size=shape) * 4)
        found[name] = (a + 1j * rng.normal(size=shape)).astype(dtype) if "complex" in dtype else a.astype(dtype)
    return found


def _alone(optimizer: ao.Optimizer, first: Any, grads: Any) -> dict[str, Any]:
    params = {k: a.copy() for k, a in first.items()}
    for g in grads:
        optimizer.update(params, g)
    return params


def _rank(comm: ThreadComm, make: Make, engine: ao.EngineName | None, first: Any, grads: Any, cuts: Cuts) -> Any:
    optimizer, mine = make(engine), slabs(first, cuts, comm.Get_rank())
    optimizer.comm = comm
    for g in grads:
        optimizer.update(mine, slabs(g, cuts, comm.Get_rank()))
    return mine, optimizer


def _compare(make: Make, cuts: Cuts, dtype: str = "float32", engine: ao.EngineName | None = None) -> Any:
    rng = np.random.default_rng(1)
    first, grads = _drawn(rng, dtype), [_drawn(rng, dtype) for _ in range(5)]
    grads[2]["b"] = None
    one = make(engine)
    expected = _alone(one, first, grads)
    found = all_of(run(3, lambda comm: _rank(comm, make, engine, first, grads, cuts)))
    together = whole([mine for mine, _ in found], cuts)
    assert [k for k in SHAPES if not same_bits(together[k], expected[k])] == []
    return one, [optimizer for _, optimizer in found]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("name", MADE)
def test_bits_of_one_process(name: str, cuts: str) -> None:
    """Every method, and chains of every stage that an element goes through by itself, wherever arrays are cut."""
    one, optimizers = _compare(MADE[name], CUTS[cuts])
    for optimizer in optimizers:
        assert optimizer.state is not None
        assert one.state is not None
        assert (optimizer.state.step, optimizer.state.t) == (one.state.step, one.state.t)
        assert optimizer.state.scalars == one.state.scalars
        assert optimizer.last_metrics == one.last_metrics


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
def test_bits_of_engines_and_dtypes(engine: ao.EngineName, dtype: str) -> None:
    """A chain with reductions of all and of each parameter, on each engine of NumPy's arrays."""
    name = "whole, joint Adam, clip, EMA" if dtype == "complex64" else "clip each, Momentum, Cautious, trust"
    _compare(MADE[name], CUTS["rows"], dtype, engine)


def test_bits_of_mixed_engines() -> None:
    """On one rank some arrays lie otherwise in memory, so that another engine takes them, in another order."""
    rng, cuts = np.random.default_rng(1), CUTS["rows"]
    first, grads, make = _drawn(rng), [_drawn(rng) for _ in range(3)], MADE["clip each, Momentum, Cautious, trust"]

    def of_rank(comm: ThreadComm) -> Any:
        optimizer, mine = make(None), slabs(first, cuts, comm.Get_rank())
        optimizer.comm = comm
        if comm.Get_rank() == 1:
            mine["W"] = np.asfortranarray(mine["W"])[:, ::-1]
            mine["W"][:] = slabs(first, cuts, 1)["W"]
        optimizer.compile(mine)
        for g in grads:
            optimizer.update(mine, slabs(g, cuts, comm.Get_rank()))
        return mine, {share.engine for share in optimizer.explain(mine, slabs(g, cuts, comm.Get_rank()))}

    found = all_of(run(3, of_rank))
    assert found[0][1] != found[1][1] or len(found[1][1]) == 2
    expected = _alone(make(None), first, grads)
    together = whole([mine for mine, _ in found], cuts)
    assert all(same_bits(together[k], expected[k]) for k in SHAPES)


def test_infinity_on_one_rank() -> None:
    """Of fifty steps one is called off on all ranks, where one has an infinity, and all go on with the bits of one."""
    rng, cuts = np.random.default_rng(2), CUTS["rows"]
    first, grads = _drawn(rng), [_drawn(rng) for _ in range(50)]
    grads[20]["W"][6, 4] = math.inf  # which the last rank has

    def make(_: Any = None) -> ao.Optimizer:
        return ao.chain(ao.LossScale(initial=8.0, interval=9), ao.ClipGlobalNorm(1.0), ao.AdamW(0.01), ao.EMA(0.9))

    one = make()
    expected = _alone(one, first, grads)
    found = all_of(run(3, lambda comm: _rank(comm, make, None, first, grads, cuts)))
    together, averages = (whole(each, cuts) for each in zip(*((m, o.eval_params(m)) for m, o in found), strict=True))
    for k, average in one.eval_params(expected).items():
        assert same_bits(together[k], expected[k])
        assert same_bits(averages[k], average)
    for _, optimizer in found:
        assert optimizer.state is not None
        assert (optimizer.state.step, optimizer.loss_scale) == (49, one.loss_scale)
        assert optimizer.stages[0].offender == "W"


def test_pure_form_and_flush() -> None:
    """`step` and `flush_step` give what `update` and `flush` leave."""
    rng, cuts = np.random.default_rng(1), CUTS["rows"]
    first, grads = _drawn(rng), [_drawn(rng) for _ in range(3)]

    def make() -> ao.Optimizer:
        return ao.chain(ao.Accumulate(2), ao.ClipGlobalNorm(1.0), ao.Adam(lr=0.1))

    def of_rank(comm: ThreadComm) -> Any:
        optimizer, p, q = make(), slabs(first, cuts, comm.Get_rank()), slabs(first, cuts, comm.Get_rank())
        optimizer.comm = comm
        state = optimizer.init(p)
        for g in grads:
            p, state = optimizer.step(p, slabs(g, cuts, comm.Get_rank()), state)
            optimizer.update(q, slabs(g, cuts, comm.Get_rank()))
        p, _ = optimizer.flush_step(p, state)
        return p, optimizer.flush(optimizer.flush(q))

    found = all_of(run(3, of_rank))
    one, expected = make(), {k: a.copy() for k, a in first.items()}
    for g in grads:
        one.update(expected, g)
    one.flush(expected)
    for each in zip(*found, strict=True):
        together = whole(each, cuts)
        assert all(same_bits(together[k], expected[k]) for k in SHAPES)


@pytest.mark.parametrize(
    ("name", "calls"),
    [("AdamW", 1), ("clip, Adam, EMA", 2), ("clip, Momentum, clip", 3), ("LAMB", 3), ("metrics", 3)],
)
def test_one_call_for_each_reduction(name: str, calls: int) -> None:
    """And one in which all agree, whatever the number of parameters. Equal ones are asked once, as by `metrics`."""
    arrays = {str(i): np.ones(3, np.float32) for i in range(20)}

    def of_rank(comm: ThreadComm) -> int:
        optimizer = MADE[name](None)
        optimizer.comm = comm
        optimizer.update({k: a.copy() for k, a in arrays.items()}, arrays)
        return comm.calls

    assert all_of(run(2, of_rank)) == [calls, calls]


def test_a_step_like_the_last_chooses_no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """With thousands of parameters that was most of the time; a gradient of another form is noticed."""
    grads = {k: np.arange(6.0).reshape(3, 2) for k in "ab"}
    other = grads | {"a": np.asfortranarray(grads["a"])}

    def of_rank(comm: ThreadComm | None) -> dict[str, Any]:
        params, optimizer = {k: np.ones((3, 2)) for k in "ab"}, ao.Adam(lr=0.5, comm=comm)
        optimizer.update(params, grads)
        with monkeypatch.context() as within:
            chosen = "anyoptim._engines._choice._choose"
            within.setattr(chosen, lambda *_: pytest.fail("an engine is chosen anew"))
            optimizer.update(params, grads)
        optimizer.update(params, other)
        return params

    (found,) = run(1, of_rank)
    assert isinstance(found, dict), found
    assert all(same_bits(found[k], a) for k, a in of_rank(None).items())


def test_a_norm_of_all_is_one_row() -> None:
    """Whatever the number of parameters: a row of 56 bytes, what is compared, and what pickle adds."""

    def of_rank(comm: ThreadComm) -> int:
        arrays = {str(i): np.ones(3, np.float32) for i in range(200)}
        optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(), comm=comm)
        optimizer.update({k: a.copy() for k, a in arrays.items()}, arrays)
        return comm.sent

    assert max(all_of(run(2, of_rank))) < 600


def _set(container: dict[str, Any], key: str, value: Any) -> Any:
    container[key] = value
    return value


def _raises(t: int) -> float:
    raise ZeroDivisionError("no rate")


DIFFERENCES: dict[str, tuple[Callable[[Any, Any, Any], Any], str]] = {
    "a path": (lambda o, p, g: [a.update(c=a["b"].copy()) for a in (p, g)], r"'c'.*missing on rank 0, but float32 of"),
    "another path": (lambda o, p, g: [a.update(z=a.pop("W")) for a in (p, g)], r"'W'.*on rank 0, but missing on rank"),
    "None": (lambda o, p, g: _set(g, "W", None), r"'W'.*a gradient.*on rank 0, but.*no gradient.*on rank 1; wanted"),
    "None of all": (lambda o, p, g: g.update(W=None, T=None, b=None), r"'T'.*no gradient.*on rank 1"),
    "a dtype": (lambda o, p, g: _set(p, "T", p["T"].astype("float64")), r"'T'.*float32 of 3.*, but float64 of 3"),
    "axes": (lambda o, p, g: [_set(a, "T", a["T"].ravel()) for a in (p, g)], r"'T'.*of 3 axes.*, but float32 of 1 ax"),
    "one array twice": (lambda o, p, g: (_set(p, "c", p["T"]), _set(g, "c", None)), r"'c': missing on rank 0"),
    "a hyperparameter": (
        lambda o, p, g: setattr(o.stages[1], "lr", 0.25),
        r"SGD.lr, stage 1: 0.5 on rank 0, but 0.25 on rank 1",
    ),
    "a group": (
        lambda o, p, g: o.groups["b"].update(lr=0.25),
        r"the coefficient lr of params at 'b': 0.5 on rank 0, but 0.25 on rank 1",
    ),
    "one of two schedules": (
        lambda o, p, g: setattr(o.stages[1], "lr", lambda t: 0.25),
        r"SGD.lr, stage 1: 0.5 on rank 0, but a schedule on rank 1",
    ),
}
"""What rank 1 does to its optimizer, parameters and gradients, and what the error on all ranks says."""

REFUSALS: dict[str, tuple[Callable[[Any, Any, Any], Any], type[BaseException], str]] = {
    "a shape": (lambda o, p, g: _set(g, "W", g["W"][1:]), ValueError, r"ValueError: params\['W'\] has shape"),
    "a type": (lambda o, p, g: _set(g, "W", "no"), TypeError, r"TypeError: grads\['W'\]"),
    "a container": (lambda o, p, g: g.pop("W"), ValueError, r"ValueError: grads\['W'\] is missing"),
    "a schedule": (
        lambda o, p, g: setattr(o.stages[1], "lr", _raises),
        ZeroDivisionError,
        "ZeroDivisionError: no rate",
    ),
}
"""What rank 1 does, the error there, and what the error on the other ranks says of it."""


def _one_differs(change: Callable[[Any, Any, Any], Any], steps: int) -> list[Any]:
    """What is raised on each of three ranks, of which one is changed after some steps, when nothing may have moved.

    Ranks take another step after it, with what they had before.
    """

    def of_rank(comm: ThreadComm) -> Any:
        optimizer = ao.chain(ao.groups({"b": {"lr": 0.5}, ...: {}}), ao.ClipGlobalNorm(1.0), ao.SGD(lr=0.5), comm=comm)
        first = {k: np.ones(n, np.float32) for k, n in SHAPES.items()}
        params, grads = {k: a.copy() for k, a in first.items()}, {k: a.copy() for k, a in first.items()}
        for _ in range(steps):
            optimizer.update(params, grads)
        before, changed, g = {k: a.copy() for k, a in params.items()}, dict(params), dict(grads)
        if comm.Get_rank() == 1:
            change(optimizer, changed, g)
        error: BaseException | None = None
        try:
            optimizer.update(changed, g)
        except BaseException as raised:
            error = raised
        assert all(np.array_equal(params[k], a) for k, a in before.items())
        assert (optimizer.state.step if optimizer.state else 0) == steps
        optimizer.stages[1].lr = 0.5
        optimizer.groups["b"]["lr"] = 0.5  # type: ignore[index]
        optimizer.update(params, grads)
        assert not np.array_equal(params["W"], before["W"])
        return [error]

    return [error for (error,) in all_of(run(3, of_rank))]


@pytest.mark.parametrize("name", DIFFERENCES)
def test_ranks_that_differ_raise_on_all(name: str) -> None:
    """With the path, before anything is written, and go on afterwards."""
    change, text = DIFFERENCES[name]
    first, *others = _one_differs(change, 0)
    assert re.search(text, str(first)), first
    assert {(type(e), str(e)) for e in (first, *others)} == {(ValueError, str(first))}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_one_rank_refuses_is_raised_on_all(name: str) -> None:
    """There as it is, and on the others with its number and words; nobody waits, and nothing is written."""
    change, kind, text = REFUSALS[name]
    first, second, third = _one_differs(change, 1)
    assert type(second) is kind
    for other in (first, third):
        assert type(other) is RuntimeError
        assert re.search(rf"rank 1 has failed, {text}", str(other)), other
    assert "this update is not taken on any rank" in str(first)


def test_interruption_of_one_rank() -> None:
    """KeyboardInterrupt from a handler in the middle of one rank's update ends that of the others, too."""

    def schedule(t: int) -> float:
        raise KeyboardInterrupt

    first, second, third = _one_differs(lambda o, p, g: setattr(o.stages[1], "lr", schedule), 1)
    assert type(second) is KeyboardInterrupt
    assert "rank 1 has failed, KeyboardInterrupt" in str(first) == str(third)


def test_nobody_is_told_of_what_fails_once_all_have_agreed() -> None:
    """The others do not wait any more; nor do they after they were told what differs."""

    def of_rank(comm: ThreadComm, differ: bool) -> int:
        fails = comm.Get_rank() == 1
        raises = pytest.raises(ValueError if differ else OSError) if differ or fails else nullcontext()
        with raises, meeting(comm) as ranks:
            ranks.note(comm.Get_rank() * differ, dict)
            ranks.agree()
            if fails:
                raise OSError("no memory")
        return comm.calls

    assert all_of(run(3, partial(of_rank, differ=False))) == [1, 1, 1]
    assert all_of(run(3, partial(of_rank, differ=True))) == [2, 2, 2]


def test_schedules_that_differ_in_one_of_two_stages() -> None:
    """Whose coefficients have one name: all of them are told."""

    def of_rank(comm: ThreadComm) -> None:
        rates: Any = (lambda t: 0.25 * comm.Get_rank(), lambda t: 0.5)
        optimizer = ao.chain(*map(ao.WeightDecay, rates), ao.SGD(), comm=comm)
        optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})

    for error in run(2, of_rank):
        assert "the coefficient decay of params at 'W': 0.0, 0.5 on rank 0, but 0.25, 0.5 on rank 1" in str(error)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("other", ["goes on", "fails", "notes something else"])
def test_interruption_behind_a_call(other: str, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that has not read yet what the others said in it meets them once more if they wait, and only then."""
    told: Any = ranks_room._told
    interrupted, written = list[bool](), list[int]()

    def of_rank(comm: ThreadComm) -> None:
        with meeting(comm) as ranks:
            if comm.Get_rank() == 0:
                if other == "fails":
                    raise OSError("no memory")
                ranks.note(other, lambda: {"rank 0": other})
            elif other == "goes on":
                ranks.note(other, lambda: {"rank 0": other})
            if not last:
                ranks.exchange(1.0)
            ranks.agree()
            written.append(comm.Get_rank())

    def read(heard: Any) -> Any:
        if threading.current_thread().name == "rank 1" and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        return told(heard)

    monkeypatch.setattr(ranks_room, "_told", read)
    first, second, third = run(3, of_rank)
    assert type(second) is KeyboardInterrupt
    if other == "goes on" and last:  # all had agreed
        assert first is third is None
        assert sorted(written) == [0, 1, 2]
        return
    assert not written
    assert isinstance(first, OSError if other == "fails" else RuntimeError)
    assert f"rank {0 if other == 'fails' else 1} has failed" in str(third)


def test_other_numbers_of_steps() -> None:
    """A rank that took a step by itself is told of, as is one that flushes while others update."""

    def of_rank(comm: ThreadComm) -> list[str]:
        optimizer = ao.chain(ao.Accumulate(2), ao.SGD(lr=0.5))
        p = {"W": np.ones(2)}
        if comm.Get_rank() == 1:
            optimizer.update(optimizer.update(p, p), p)
        optimizer.comm = comm
        said = []
        flush = partial(optimizer.update, p, p) if comm.Get_rank() else partial(optimizer.flush, p)
        for call in (partial(optimizer.update, p, p), flush):
            with pytest.raises(ValueError, match="rank") as error:
                call()
            said.append(str(error.value))
        return said

    steps, calls = all_of(run(2, of_rank))[0]
    assert steps.startswith("the steps taken: 0 on rank 0, but 1 on rank 1; wanted the same")
    assert "on rank 1" in calls


def _both(of_rank: Callable[[ThreadComm, dict[str, Any]], Any]) -> list[Any]:
    """What two ranks raise, or give, of which each has two elements."""
    return run(2, lambda comm: of_rank(comm, {"W": np.ones(2)}))


@pytest.mark.parametrize("pure", [False, True])
def test_one_gathers_while_another_steps(pure: bool) -> None:
    """Both are told, by the argument that differs, and both may go on."""

    def of_rank(comm: ThreadComm, p: dict[str, Any]) -> Any:
        optimizer = ao.chain(ao.Accumulate(1 + comm.Get_rank()), ao.ClipGlobalNorm(1.0), ao.SGD(), comm=comm)
        if pure:
            optimizer.step(p, p, optimizer.init(p))
        optimizer.update(p, {"W": np.ones(2)})

    for error in _both(of_rank):
        assert isinstance(error, ValueError)
        assert re.search("Accumulate, stage 0: every = 1; .* on rank 0, but every = 2; .* on rank 1", str(error)), error


def test_calls_that_ask_for_other_things() -> None:
    """A rank that is ready to write, and one that asks for a norm, are told so, whatever else they have noted."""

    def of_rank(comm: ThreadComm, p: dict[str, Any]) -> Any:
        with meeting(comm) as ranks:
            return ranks.exchange(1) if comm.Get_rank() else ranks.agree()

    for error in _both(of_rank):
        assert isinstance(error, ValueError)
        assert "an update: is ready to be written on rank 0, but asks all ranks for a reduction on rank 1" in str(error)


def test_scalars_and_arguments_that_no_coefficient_shows() -> None:
    """At once, and not when they have led to other coefficients; the order of params, too."""

    def of_scale(comm: ThreadComm, p: dict[str, Any]) -> Any:
        return ao.chain(ao.LossScale(8.0, interval=2 + comm.Get_rank()), ao.SGD(), comm=comm).update(
            p, {"W": np.ones(2)}
        )

    def of_kept(comm: ThreadComm, p: dict[str, Any]) -> Any:
        optimizer = ao.chain(ao.LossScale(8.0, interval=9), ao.SGD())
        for _ in range(comm.Get_rank()):
            optimizer.update(p, {"W": np.full(2, math.nan)})
        optimizer.comm = comm
        optimizer.update(p, {"W": np.ones(2)})

    def of_order(comm: ThreadComm, p: dict[str, Any]) -> Any:
        names = ["a", "b"][:: 1 - 2 * comm.Get_rank()]
        params, grads = (OrderedDict((name, np.ones(2)) for name in names) for _ in range(2))
        ao.SGD(comm=comm).update(params, grads)

    for of_rank, said in (
        (of_scale, "LossScale, stage 0: .*interval = 2.* on rank 0, but .*interval = 3"),
        (of_kept, "LossScale, stage 0: .*it keeps .* on rank 0, but .*it keeps"),
        (of_order, "the order of params: a, b on rank 0, but b, a on rank 1"),
    ):
        for error in _both(of_rank):
            assert isinstance(error, ValueError)
            assert re.search(said, str(error)), error


def test_an_error_without_words() -> None:
    """Its kind is told, if its words can't be had."""

    class Mute(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

    def of_rank(comm: ThreadComm, p: dict[str, Any]) -> Any:
        def rate(t: int) -> float:
            raise Mute

        ao.SGD(rate if comm.Get_rank() else 0.1, comm=comm).update(p, {"W": np.ones(2)})

    first, second = _both(of_rank)
    assert isinstance(second, Mute)
    assert isinstance(first, RuntimeError)
    assert "rank 1 has failed, Mute; this update is not taken" in str(first)


def test_comm_that_is_set_in_a_schedule() -> None:
    """It counts from the next update on."""

    def of_rank(comm: ThreadComm, p: dict[str, Any]) -> Any:
        optimizer = ao.SGD()

        def rate(t: int) -> float:
            optimizer.comm = comm
            return 0.5

        optimizer.lr = rate
        for _ in range(3):
            optimizer.update(p, {"W": np.ones(2)})
        return comm.calls

    assert all_of(_both(of_rank)) == [2, 2]


def test_a_deleted_gradient_of_jax(need: Callable[[str], Library]) -> None:
    """Is refused by its name before ranks agree, and so on all."""
    lib = need("jax")

    def of_rank(comm: ThreadComm, _: Any) -> Any:
        p, g = ({"W": lib.asarray(np.ones(2, np.float32))} for _ in range(2))
        optimizer = ao.Adam(comm=comm)
        optimizer.update(p, g)
        if comm.Get_rank():
            g["W"].delete()
        before = optimizer.state.step  # type: ignore[union-attr]
        try:
            optimizer.update(p, g)
        except BaseException as error:
            return error, optimizer.state.step - before  # type: ignore[union-attr]

    (first, moved), (second, too) = all_of(_both(of_rank))
    assert (moved, too) == (0, 0)
    assert re.search(r"grads\['W'\] was deleted, as by a function that it was donated to", str(second))
    assert "rank 1 has failed, TypeError" in str(first)


def test_diagnose_tells_the_same_on_all_ranks() -> None:
    """Whichever of them has what the gate calls the step off for."""

    def of_rank(comm: ThreadComm, p: dict[str, Any]) -> Any:
        optimizer = ao.chain(ao.SkipNonFinite(), ao.SGD(), comm=comm)
        return optimizer.diagnose(p, {"W": np.full(2, math.inf if comm.Get_rank() else 1.0)}).note

    first, second = all_of(_both(of_rank))
    assert first == second
    assert "SkipNonFinite() would call it off" in first


def test_other_counts() -> None:
    """Counts of steps differ where a parameter rested on one rank, before there was a communicator."""

    def of_rank(comm: ThreadComm) -> None:
        optimizer, p = ao.SGD(), {"W": np.ones(2), "b": np.ones(2)}
        optimizer.update(p, {"W": np.ones(2), "b": None if comm.Get_rank() else np.ones(2)})
        optimizer.comm = comm
        optimizer.update(p, p)

    for error in run(2, of_rank):
        assert isinstance(error, ValueError)
        assert "params at 'b': float64 of 1 axes, a gradient, 1 steps taken on rank 0, but" in str(error)


def test_what_one_rank_refuses_in_the_pure_form() -> None:
    """Is raised on all there, too, also where no reduction lets ranks meet before."""

    def of_rank(comm: ThreadComm) -> None:
        optimizer, p = ao.SGD(comm=comm), {"W": np.ones(2)}
        optimizer.step(p, {"W": np.ones(2 + comm.Get_rank())}, optimizer.init(p))

    assert [type(error) for error in run(2, of_rank)] == [RuntimeError, ValueError]


def test_a_call_that_fails_is_not_made_again() -> None:
    """An error of MPI itself is raised as it is: ranks that have failed in one call do not wait in another."""

    class Broken(ThreadComm):
        def allgather(self, sendobj: Any) -> list[Any]:
            self.calls += 1
            raise OSError("no network")

    comm = Broken(0, [b""], None, None)  # type: ignore[arg-type] # nobody meets
    for calls, optimizer in enumerate((ao.SGD(comm=comm), ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(), comm=comm)), 1):
        with pytest.raises(OSError, match="no network"):
            optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
        assert comm.calls == calls


def test_too_many_skips_raise_on_all() -> None:
    """The gate gives up on all ranks, whichever of them has what is not finite."""

    def of_rank(comm: ThreadComm) -> None:
        optimizer = ao.chain(ao.SkipNonFinite(max_consecutive_skips=1), ao.SGD(), comm=comm)
        p, g = {"W": np.ones(2)}, {"W": np.full(2, math.nan if comm.Get_rank() else 1.0)}
        optimizer.update(p, g)
        optimizer.update(p, g)

    found = run(2, of_rank)
    assert [type(e) for e in found] == [FloatingPointError] * 2
    assert "params['W'] is not finite" in str(found[0])


@pytest.mark.parametrize("name", WHOLE)
def test_rules_of_whole_arrays_are_refused(name: str) -> None:
    """On all ranks, by the name of the method: a rank has no whole array."""

    def of_rank(comm: ThreadComm) -> None:
        getattr(ao, name)(comm=comm).update({"W": np.ones((2, 2))}, {"W": np.ones((2, 2))})

    for error in run(2, of_rank):
        assert isinstance(error, ValueError)
        assert f"params['W'] is updated by {name}(" in str(error)


def test_what_comm_may_be() -> None:
    """A communicator, on the outermost optimizer, that copies share."""
    with pytest.raises(TypeError, match=r"comm is 3; wanted a communicator of mpi4py, such as MPI.COMM_WORLD, a proc"):
        ao.Adam(comm=3)
    comm = ThreadComm(0, [b""], None, None)  # type: ignore[arg-type] # nobody meets
    with pytest.raises(ValueError, match=r"Adam\(.*\) has comm=<.*>; wanted it on the chain"):
        ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(comm=comm))
    optimizer = ao.partition({...: ao.SGD()}, comm=comm)
    assert deepcopy(optimizer).comm is comm
    optimizer.comm = None
    assert deepcopy(optimizer).comm is None
    with pytest.raises(TypeError, match="comm is 'MPI'"):
        optimizer.comm = "MPI"


def test_parts_are_refused() -> None:
    """Rows of a slab, which other ranks know nothing of."""

    def of_rank(comm: ThreadComm) -> None:
        ao.SGD(comm=comm).update({"W": np.ones((2, 2))}, {"W": np.ones((1, 2))}, at={"W": [0]})

    assert all("a part of a parameter" in str(error) for error in run(2, of_rank))


def test_explained() -> None:
    """Every step is planned, since ranks agree on it."""

    def of_rank(comm: ThreadComm) -> Any:
        optimizer, p = ao.SGD(comm=comm), {"W": np.ones(2)}
        optimizer.update(p, p)
        return [share.guard for share in optimizer.explain(p, p)]

    assert all_of(run(2, of_rank)) == [["ranks"]] * 2


def test_arrays_of_other_libraries(lib: Library) -> None:
    """Norms over ranks are those of all arrays, of any library whose arrays are whole in their process."""
    w = np.array([[3.0, 0.0], [0.0, 4.0]], np.float32)
    expected = ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(lr=1.0)).update({"W": w.copy()}, {"W": w})["W"]

    def of_rank(comm: ThreadComm) -> Any:
        r = comm.Get_rank()
        p, g = ({"W": lib.array(w[r : r + 1], "float32")} for _ in range(2))
        ao.chain(ao.ClipGlobalNorm(1.0), ao.SGD(lr=1.0), comm=comm).update(p, g)
        return lib.values(p["W"])

    found = run(2, of_rank)
    if lib.name == "dask":
        assert all(isinstance(error, TypeError) and "that is lazy" in str(error) for error in found)
    else:
        np.testing.assert_allclose(np.concatenate(all_of(found)), expected, rtol=1e-6)  # JAX adds in float32


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.product) for n in (1, 3, 4))])
def test_mpi(ranks: int) -> None:
    """The same with mpi4py's communicators, in processes under mpiexec."""
    assert mpi.run(ranks, "-m", "tests.support.mpi_ranks") == "done\n"
