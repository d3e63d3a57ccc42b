"""The harness measures what it says: turns, medians, ratios, and refusal of wrong results."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import anyoptim as ao
from benchmarks import (
    __main__,
    alone,
    costs,
    dropout,
    groups,
    harness,
    limit,
    own,
    picture,
    ranks,
    report,
    rows,
    solvers,
    startup,
    subnormals,
    torch_peers,
    updates,
)
from benchmarks.harness import Arrays, Candidate, Case, Contest, Timing
from benchmarks.machine import PEERS, machine
from benchmarks.methods import CHAIN, DECAY, EPS, MAX_NORM, METHODS, ClippedAveragedAdam
from benchmarks.names import ANYOPTIM, BASELINE, BLOCKED, LIMIT, OPTAX, TORCH
from benchmarks.problem import MODELS, PARAMETERS, Problem, Shapes
from tests.reference import textbook
from tests.reference.evaluations import TYPICAL

pytestmark = pytest.mark.usefixtures("quickly")

SMALL: Shapes = {"W": (3, 4), "b": (4,), "long": (5000,)}


def _case(turns: dict[str, Any], tolerance: float = 0.0) -> Case:
    candidates = [Candidate(name, turn, lambda: 0.0) for name, turn in turns.items()]
    return Case(candidates, lambda rng: {"g": rng.normal(size=3)}, tolerance)


@pytest.fixture(autouse=True)
def unsettled(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No time passes before a turn: the seconds that would have."""
    waits: list[float] = []
    monkeypatch.setattr(harness, "_wait", waits.append)
    return waits


def test_turns_interleave_and_arrays_are_fresh() -> None:
    """Each candidate has one turn a round, in changing order, on equal values in arrays of its own."""
    seen: list[tuple[str, Arrays]] = []
    case = _case({name: partial(lambda name, given: seen.append((name, given)), name) for name in "abc"})
    harness.play(case, 20, np.random.default_rng(0))
    rounds = [seen[i : i + 3] for i in range(0, 60, 3)]
    assert all(sorted(name for name, _ in r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(name for name, _ in r) for r in rounds}) > 1
    assert all(np.array_equal(r[0][1]["g"], other["g"]) for r in rounds for _, other in r)
    assert len({id(given["g"]) for _, given in seen}) == 60
    assert not np.array_equal(rounds[0][0][1]["g"], rounds[1][0][1]["g"])


def test_only_the_turn_is_timed(unsettled: list[float]) -> None:
    """By a clock that ticks once a reading: each turn costs the ticks read inside it, plus one; taking costs none."""
    clock = partial(next, itertools.count())
    case = _case({"slow": lambda _: [clock() for _ in range(9)], "fast": lambda _: None})
    taking = [replace(c, take=lambda _: clock(), ways={"": clock}) for c in case.candidates]
    times = harness.play(replace(case, candidates=taking), 5, np.random.default_rng(0), clock)
    assert times == {"slow": {"": [10] * 5}, "fast": {"": [1] * 5}}
    assert unsettled == [harness.SETTLE] * 10


@pytest.mark.parametrize("together", [True, False])
def test_medians_ratios_and_the_best_way(together: bool) -> None:
    """Quartiles in milliseconds; a ratio above 1 is faster than the baseline; of two ways the faster counts."""
    assert harness.timing([1_000_000, 9_000_000, 2_000_000], 0.0) == Timing(1.5, 2.0, 5.5, 0.0, 3, "")
    way = [""]

    def work(name: str, _: Arrays) -> None:
        sum(range(20_000 if name == "slow" or way[0] == "bad" else 0))

    def build(who: Sequence[str]) -> Case:
        case = _case({name: partial(work, name) for name in who})
        ways: dict[str, Callable[[], object]] = {w: partial(way.__setitem__, 0, w) for w in ("bad", "good")}
        return replace(case, candidates=[replace(c, ways=ways) if c.name == "fast" else c for c in case.candidates])

    outcome = harness.measure("two", Contest(["slow", "fast"], build, together), "slow", seconds=0.05)
    assert outcome.ratios["slow"] == 1
    assert outcome.ratios["fast"] == outcome.timings["slow"].median / outcome.timings["fast"].median > 1
    assert outcome.timings["fast"].way == "good"
    assert outcome.timings["slow"].turns >= (harness.FEWEST if together else 6)


def test_where_memory_is_short_one_sits_at_a_time() -> None:
    """Each is built alone, more than twice, and its warm-up is not counted."""
    built: list[list[str]] = []
    turns = dict.fromkeys("abc", lambda _: None)

    def build(who: Sequence[str]) -> Case:
        built.append(list(who))
        return _case({name: turns[name] for name in who})

    outcome = harness.measure("three", Contest("abc", build, together=False), "a", seconds=0)
    sittings = 1 + harness.VISITS
    assert sorted(built) == sorted([[name] for name in "abc"] * sittings)
    assert outcome.timings["a"].turns == harness.APART_TRIAL + harness.VISITS * harness.APART


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("off", [0.1, math.inf, math.nan])
def test_wrong_results_are_no_results(off: float, together: bool) -> None:
    """A candidate that did not do the work is named, and nothing is reported."""
    case = Case([Candidate("liar", lambda _: None, lambda: off)], lambda rng: {}, tolerance=0.05)
    with pytest.raises(harness.WrongResultError, match="fake: off the reference are liar by"):
        harness.measure("fake", Contest(["liar"], lambda _: case, together), "liar", seconds=0.01)


def test_deviation_is_of_everything() -> None:
    """Keys, shapes and values."""
    a = {"w": np.array([1.0, 200.0])}
    assert harness.deviation(a, {"w": np.array([1.0, 100.0])}) == 1.0
    assert harness.deviation(a, {"v": a["w"]}) == math.inf
    assert harness.deviation(a, {"w": np.ones(3)}) == math.inf
    assert math.isnan(harness.deviation({"w": np.array([np.nan, 1.0])}, a))


def test_gradients_are_drawn_from_a_pool() -> None:
    """New ones each round, away from 0, of two loudnesses; with their norm; and first and last are checked."""
    problem, rng = Problem(SMALL), np.random.default_rng(0)
    rounds = [problem.draw(rng) for _ in range(20)]
    for drawn in rounds:
        assert {k: a.shape for k, a in drawn.arrays.items()} == SMALL
        assert min(np.abs(a).min() for a in drawn.arrays.values()) > 0.01
        squares = sum(float(np.sum(np.square(a, dtype=np.float64))) for a in drawn.arrays.values())
        assert drawn.norm == pytest.approx(math.sqrt(squares), rel=1e-12)
        fresh = drawn.fresh()["long"]
        assert fresh.flags.writeable
        assert problem.sample({"long": fresh})["long"][[0, -1]].tolist() == fresh[[0, -1]].tolist()
    assert len({drawn.arrays["long"][0] for drawn in rounds}) == 20
    assert max(d.norm for d in rounds) > 3 * min(d.norm for d in rounds)


def test_the_shapes_are_those_of_real_models() -> None:
    """Parameters in millions, as published; GPT-2's output layer is its embedding."""
    millions = {name: Problem(PARAMETERS[name]).size / 1e6 for name in MODELS}
    assert millions == pytest.approx(
        {"ResNet-50": 25.6, "GPT-2": 124.4, "BERT base": 109.5, "ViT-B/16": 86.6}, abs=0.06
    )


METHOD_AND_DTYPE = [*((method, "float32") for method in METHODS), ("Adam", "float64")]


@pytest.mark.parametrize(("method", "dtype"), METHOD_AND_DTYPE)
def test_candidates_do_the_same_work(method: str, dtype: str) -> None:
    """On small shapes every candidate passes its check; with a step left out none would, but the limit is no step."""
    who = updates.names(dtype)
    case = updates.case(method, Problem(SMALL, dtype), who)
    assert {BASELINE, ANYOPTIM, LIMIT} <= {c.name for c in case.candidates}
    harness.play(case, 30, np.random.default_rng(0))
    harness.checked(method, case)
    case.follow(case.draw(np.random.default_rng(1)))
    with pytest.raises(harness.WrongResultError) as caught:
        harness.checked(method, case)
    assert all(f"{name} by" in str(caught.value) for name in who if name != LIMIT)


def _chain(max_norm: float, decay: float, engine: ao.EngineName | None) -> Any:
    return ao.chain(ao.ClipGlobalNorm(max_norm), ao.Adam(eps=EPS), ao.EMA(decay), engine=engine)


BROKEN: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "no clipping": (CHAIN, {"by_hand": partial(ClippedAveragedAdam, max_norm=math.inf, eps=EPS)}, {BASELINE}),
    "another decay": (CHAIN, {"by_hand": partial(ClippedAveragedAdam, decay=0.99, eps=EPS)}, {BASELINE}),
    "another clipping": (CHAIN, {"ours": lambda engine: _chain(1e9, DECAY, engine)}, {ANYOPTIM, BLOCKED}),
    "other averages": (CHAIN, {"ours": lambda engine: _chain(MAX_NORM, 0.99, engine)}, {ANYOPTIM, BLOCKED}),
    "another beta1": ("Adam", {"ours": partial(ao.Adam, beta1=0.5, eps=EPS)}, {ANYOPTIM, BLOCKED}),
    "another lr": ("SGD", {"ours": partial(ao.SGD, lr=0.0101)}, {ANYOPTIM, BLOCKED}),
    "another method": ("Momentum", {"ours": partial(ao.SGD, lr=0.01)}, {ANYOPTIM, BLOCKED}),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_candidate_is_caught(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and nobody else is."""
    method, change, wrong = BROKEN[how]
    monkeypatch.setattr(own, "METHODS", {**METHODS, method: replace(METHODS[method], **change)})
    case = updates.case(method, Problem(SMALL), [BASELINE, BLOCKED, ANYOPTIM, LIMIT])
    harness.play(case, 30, np.random.default_rng(0))
    assert {c.name for c in case.candidates if not c.deviation() <= case.tolerance} == wrong
    with pytest.raises(harness.WrongResultError):
        harness.checked(method, case)


@pytest.mark.parametrize("method", METHODS)
def test_the_limit_streams_everything(method: str) -> None:
    """By one thread and by several, of which each does its part; a turn left out is caught, also by half."""
    problem, rng = Problem(SMALL), np.random.default_rng(0)
    stream = limit.Limit(method, problem)
    for threads in (1, 2, 3):
        stream.use(threads)
        stream.turn(stream.take(problem.draw(rng)))
        assert stream.deviation() == 0
    g = stream.take(problem.draw(rng))
    assert stream.deviation() > 0
    half = len(g) // 2
    stream.stream(g[:half], *(a[:half] for a in stream.written))
    assert stream.deviation() > 0


def test_every_case_has_everybody() -> None:
    """Two models with every method, the small shapes with most, the other models with those that the README shows."""
    cases = updates.cases()
    peers = [who for who in (*TORCH, OPTAX) if who in updates.names("float32")]
    for name, contest in cases.items():
        assert set(contest.names) == {BASELINE, BLOCKED, ANYOPTIM, LIMIT, *(() if "float64" in name else peers)}
    assert {f"{method}, {size}" for method in report.SHOWN for size in PARAMETERS} <= set(cases)
    assert {f"{method}, {size}" for method in METHODS for size in updates.EVERY} <= set(cases)
    small = set(PARAMETERS) - set(MODELS)
    assert {f"{method}, {size}" for method in set(METHODS) - {*updates.WITH_MODELS} for size in small} <= set(cases)


def test_the_fixed_cost_is_fitted() -> None:
    """A row for each engine: what was measured, and a line through it."""
    sheet = costs.fixed(0.01, counts=(1, 2, 8))
    assert [row[0] for row in sheet.rows] == [BASELINE, "compiled", "blocked"]
    for _, *measured, call, each in sheet.rows:
        assert all(isinstance(y, float) and y > 0 for y in measured)
        assert float(call) + 8 * float(each) == pytest.approx(measured[-1], rel=0.5)


def test_allocations_are_seen() -> None:
    """The five lines make arrays of the parameters' size, anyoptim's stay far below; every method is there."""
    n = 1_000_000
    rows = costs.allocations(0, {"w": (n,)}).rows
    assert [row[0] for row in rows] == [*METHODS]
    for _, five_lines, without_numba, compiled in rows:
        assert float(five_lines) > 4 * n / 1024
        assert float(without_numba) < float(five_lines) / 2
        assert float(compiled) < 4 * n / 1024 / 20


def test_groups_are_timed_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """One group and five, each beside a reference of its own; with the decay of another group one is caught."""
    shapes = {str(i): (3, i + 1) for i in range(7)}
    sheet = groups.groups(0.01, {"small": shapes})
    assert [row[0] for row in sheet.rows] == [f"small, {who}" for who in groups._who()]
    for _, one, five, ratio in sheet.rows:
        assert isinstance(one, float)
        assert isinstance(five, float)
        assert ratio == five / one > 0
    real = ao.groups
    monkeypatch.setattr(ao, "groups", lambda of: real({k: {**own, "weight_decay": 0.3} for k, own in of.items()}))
    with pytest.raises(harness.WrongResultError, match="off the reference are anyoptim, 5 groups by"):
        groups.groups(0.01, {"small": shapes})


def test_ranks_are_timed_and_right() -> None:
    """Beside the same without a communicator, which is asked once by a method and twice by a chain that clips."""
    sheet = ranks.ranks(0.01, {"small": {"w": (3, 4), "b": (2,)}})
    assert [row[0] for row in sheet.rows] == ["Adam, small", "clip + Adam + EMA, small"]
    for _, before, rank, ratio, more in sheet.rows:
        assert isinstance(before, float)
        assert isinstance(rank, float)
        assert ratio == rank / before > 1
        assert more == rank - before


def test_dropout_beside_everybody_elses() -> None:
    """Each checked by itself; with a ratio for each rival there is."""
    pytest.importorskip("numba", reason="one of the candidates")
    sheet = dropout.dropout(0.01, {"small": (40, 30)})
    ((size, *row),) = sheet.rows
    assert size == "small"
    assert len(row) + 1 == len(sheet.headings)
    times: dict[str, Any] = dict(zip(sheet.headings[1:], row, strict=True))
    assert all(isinstance(t, float) and t > 0 for t in times.values() if t != "")
    assert times["anyoptim against five lines"] == times[BASELINE] / times[ANYOPTIM]
    assert times["of copies"] == times[ANYOPTIM] / times[LIMIT]
    assert times["without Numba against five lines"] == times[BASELINE] / times[BLOCKED]


@pytest.mark.parametrize("who", [ANYOPTIM, BASELINE, LIMIT])
def test_wrong_masks_are_no_results(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a backward that drops other elements than its forward."""
    layer = {ANYOPTIM: ao.Dropout, BASELINE: textbook.Dropout}.get(who)
    if layer is None:
        monkeypatch.setattr(np, "copyto", lambda *_: None)
    else:
        monkeypatch.setattr(layer, "backward", lambda self, dout, out=None: dout)
    monkeypatch.setattr(dropout, "NAMES", sorted({BASELINE, who}))
    with pytest.raises(harness.WrongResultError, match=f"are .*{who}"):
        dropout.dropout(0.01, {"small": (40, 30)})


def test_resting_rows_become_subnormal() -> None:
    """Half of m, unless it is flushed."""
    sheet = subnormals.slowdown(0, shapes={"w": (8, 3)}, steps=1000)
    for who, *_, share in sheet.rows:
        assert share == (0 if "FlushSubnormals" in str(who) else 50), who


def test_rows_are_updated_by_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand and by `at`, with counts of their own; who leaves out a step is caught."""
    sheet = rows.rows(0.01, shape=(50, 4), number=5)
    assert [row[0] for row in sheet.rows] == [*rows.draws(1)]
    assert all(float(y) > 0 for _, *measured in sheet.rows for y in measured)
    update = ao.Adam.update
    monkeypatch.setattr(ao.Adam, "update", lambda self, p, g, at: update(self, p, g[:4], at=at[:4]))
    with pytest.raises(harness.WrongResultError, match=r"are compiled by .*, blocked by"):
        rows.rows(0.01, shape=(50, 4), number=5)


def test_processes_are_timed() -> None:
    """A whole one takes longer than Python needs to start; what a script prints counts instead."""
    chosen = {"import anyoptim": startup.MEASURED["import anyoptim"], "says so": startup.Process("print(1e-6)")}
    (_, whole, *_), (_, printed, *_) = startup.startup(0, chosen, processes=1).rows
    assert float(whole) > 0.005
    assert printed == 1e-6


def test_alone_times_both_of_them_in_processes_of_their_own_and_refuses_wrong_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sheet = alone.alone(0, {"small": SMALL}, processes=1)
    ((name, five, ours, ratio),) = sheet.rows
    assert name == "Adam, small"
    assert isinstance(five, float)
    assert isinstance(ours, float)
    assert ratio == five / ours > 0
    monkeypatch.setattr(alone, "SCRIPT", alone.SCRIPT.replace("(1 - 0.9)", "(1 - 0.8)"))
    with pytest.raises(subprocess.CalledProcessError):
        alone.alone(0, {"small": SMALL}, processes=1)


def _record(names: Sequence[str] = tuple(updates.BUILDERS)) -> report.Record:
    timings = {who: Timing(1.0 + i, 2.0 + i, 3.0 + i, 0.0, 9, "1 thread") for i, who in enumerate(names)}
    ratios = {who: timings[BASELINE].median / t.median for who, t in timings.items()}
    cases = {f"{method}, {size}": harness.Outcome(0.0, timings, ratios) for method in METHODS for size in PARAMETERS}
    return report.record(cases, {"costs": report.Sheet(["cost", "ms"], [["much", 1234.5]], "Or not.")}, machine())


def test_a_missing_peer_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its candidates are left out, the rest is measured, and every page says so."""
    monkeypatch.setattr(torch_peers, "installed", lambda: False)
    names = updates.names("float32")
    assert [who for who in updates.BUILDERS if who not in names] == list(TORCH)
    results = _record(names)
    results["machine"]["torch"] = "missing"
    for text in (report.summary(results), report.document(results)):
        assert "torch is not installed there: its candidates are left out." in text
    picture.draw(report.shares(results), report.TITLE, tmp_path / "bars.png")


def test_results_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved results can be loaded again, and describe machine, versions, commit and date; tables have all of them."""
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results.json")
    results = _record()
    report.save(results)
    assert report.load() == json.loads(json.dumps(results))
    described = {"cpu", "cores", "memory_gib", "os", "python", "numpy", "numba", "jax", "anyoptim", "commit", *PEERS}
    assert described == set(results["machine"])
    document = report.document(report.load())
    assert all(f"| {name} | 2 ±50% |" in document for name in results["cases"])
    assert "| much | 1,230 |" in document
    for shown, page in ((report.SHOWN[:1], report.summary(results)), (report.SHOWN, document)):
        rows = [f"| {method}, {size} | 8 | 0.25 | 0.62 | 0.75 | 112% |" for method in shown for size in PARAMETERS]
        assert all(row in page for row in rows)
        assert page.count("| 8 | 0.25 |") == len(rows)
    with pytest.raises(ValueError, match="wanted one line <!-- benchmarks:begin -->"):
        report.between_markers("no markers", "")


def test_the_pages_quote_the_committed_results(tmp_path: Path) -> None:
    """README, docs/benchmarks.md and the picture are what `--readme` makes of the JSON that is committed."""
    results = report.load()
    readme = __main__.README.read_text(encoding="utf-8")
    assert report.between_markers(readme, report.summary(results)) == readme
    assert report.DOCUMENT.read_text(encoding="utf-8") == report.document(results)
    picture.draw(report.shares(results), report.TITLE, tmp_path / "bars.png")
    for path in (report.PICTURE, tmp_path / "bars.png"):
        with PIL.Image.open(path) as image:
            assert image.info[picture.KEY] == picture.digest(report.shares(results))
            assert min(image.size) > 900


def test_what_is_measured_again_is_said() -> None:
    """It stands in the place of what was there, and the caption says in one line how much it is, and of which code."""
    old, new = _record(), _record()
    name = next(iter(new["cases"]))
    new = {**new, "cases": {name: {"new": 1}}, "sheets": {}}
    both = report.replaced(old, new)
    assert both["cases"][name] == {"new": 1}
    assert {k: v for k, v in both["cases"].items() if k != name} == {k: v for k, v in old["cases"].items() if k != name}
    commit = new["machine"]["commit"]
    assert both["again"] == {name: commit}
    assert f"Measured again by themselves: 1, at {commit}, named in results.json." in report.caption(both)
    assert "again" not in report.caption(old)


def test_only_and_readme_are_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--only` runs what it names and writes nothing; `--readme` runs nothing and writes the pages."""
    for of, name in ((report, "RESULTS"), (report, "DOCUMENT"), (report, "PICTURE"), (__main__, "README")):
        path = tmp_path / getattr(of, name).name
        monkeypatch.setattr(of, name, path)
    monkeypatch.setattr(__main__, "SHEETS", {"costs": lambda _: report.Sheet(["cost", "ms"], [["much", 1.0]], "")})
    monkeypatch.setattr("sys.argv", ["benchmarks", "--only", "costs"])
    __main__.main()
    assert "much" in capsys.readouterr().out
    assert not report.RESULTS.exists()
    report.save(_record())
    __main__.README.write_text("# title\n<!-- benchmarks:begin -->\nold\n<!-- benchmarks:end -->\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["benchmarks", "--readme"])
    __main__.main()
    assert "old" not in __main__.README.read_text(encoding="utf-8")
    assert report.DOCUMENT.exists()
    assert report.PICTURE.exists()


def test_evaluations_are_counted_and_added_up() -> None:
    """Each target of a problem in a row, with SciPy's counts as published, and the sums below."""
    name = "Rosenbrock, 2-D"
    sheet = solvers.counts(0, {name: TYPICAL[name]})
    counts = [row[1:] for row in sheet.rows]
    assert [row[0] for row in counts[:-1]] == [41, 44, 45]
    assert counts[-1] == [sum(float(n) for n in column) for column in zip(*counts[:-1], strict=True)]


@pytest.mark.parametrize("who", [solvers.SCIPY, ANYOPTIM])
def test_an_iteration_is_timed_and_checked(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the function; a solver that does not get far enough is refused."""
    iteration = solvers.iterate(who, 5000)
    assert iteration.milliseconds > 0
    assert 0 < iteration.left < solvers.REACHED
    monkeypatch.setattr(solvers, "REACHED", 1e-9)
    with pytest.raises(harness.WrongResultError, match="left of the value at the start"):
        solvers.iterate(who, 5000)
