"""The harness measures what it says: turns, medians, ratios, and refusal of wrong results."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import five_lines, harness, report
from benchmarks.harness import Arrays, Candidate, Case
from benchmarks.machine import ROOT, machine


def _case(turns: dict[str, Any], tolerance: float = 0.0) -> Case:
    candidates = [Candidate(name, turn, lambda: 0.0) for name, turn in turns.items()]
    return Case(candidates, lambda rng: {"g": rng.normal(size=3)}, tolerance)


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


def test_only_the_turn_is_timed() -> None:
    """By a clock that ticks once a reading: each turn costs the ticks read inside it, plus one."""
    clock = partial(next, itertools.count())
    case = _case({"slow": lambda _: [clock() for _ in range(9)], "fast": lambda _: None})
    times = harness.play(case, 5, np.random.default_rng(0), clock)
    assert times == {"slow": [10] * 5, "fast": [1] * 5}


def test_medians_and_ratios() -> None:
    """Quartiles in milliseconds, from nanoseconds; a ratio above 1 is faster than the baseline."""
    assert harness.timing([1_000_000, 9_000_000, 2_000_000], 0.0) == harness.Timing(1.5, 2.0, 5.5, 0.0)
    case = _case({"slow": lambda _: sum(range(20_000)), "fast": lambda _: None})
    outcome = harness.measure("two", case, "slow", seconds=0.05)
    assert outcome.ratios["slow"] == 1
    assert outcome.ratios["fast"] == outcome.timings["slow"].median / outcome.timings["fast"].median > 1
    assert outcome.rounds >= harness.FEWEST


@pytest.mark.parametrize("off", [0.1, math.inf, math.nan])
def test_wrong_results_are_no_results(off: float) -> None:
    """A candidate that did not do the work is named, and nothing is reported."""
    case = Case([Candidate("liar", lambda _: None, lambda: off)], lambda rng: {}, tolerance=0.05)
    with pytest.raises(harness.WrongResultError, match="fake: off the reference are liar by"):
        harness.measure("fake", case, "liar", seconds=0.01)


def test_deviation_is_of_everything() -> None:
    """Keys, shapes and values."""
    a = {"w": np.array([1.0, 200.0])}
    assert harness.deviation(a, {"w": np.array([1.0, 100.0])}) == 1.0
    assert harness.deviation(a, {"v": a["w"]}) == math.inf
    assert harness.deviation(a, {"w": np.ones(3)}) == math.inf
    assert math.isnan(harness.deviation({"w": np.array([np.nan, 1.0])}, a))


@pytest.mark.parametrize("method", five_lines.METHODS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_candidates_do_the_same_work(method: str, dtype: str) -> None:
    """On small shapes every candidate passes its check; a step left out would not."""
    case = five_lines.optimizer_case(method, dtype, {"W": (3, 4), "b": (4,)})
    harness.play(case, 30, np.random.default_rng(0))
    harness.checked(method, case)
    case.follow(case.draw(np.random.default_rng(1)))
    with pytest.raises(harness.WrongResultError, match=f"{five_lines.BASELINE} by .*{five_lines.ANYOPTIM} by"):
        harness.checked(method, case)


def test_dropout_candidates_do_the_work() -> None:
    """Forward, backward, and the streaming limit."""
    case = five_lines.dropout_case((32, 100))
    harness.play(case, 3, np.random.default_rng(0))
    assert harness.checked("dropout", case)[five_lines.ANYOPTIM] == 0


def test_the_readme_quotes_the_committed_results() -> None:
    """The table in the README is what `--readme` makes of the JSON that is committed."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert report.between_markers(readme, report.markdown(report.load("five_lines"))) == readme


def test_results_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved results can be loaded again, and describe machine, versions, commit and date."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    case = _case(
        {five_lines.BASELINE: lambda _: None, five_lines.ANYOPTIM: lambda _: None, five_lines.LIMIT: lambda _: None}
    )
    record = report.record({"tiny": harness.measure("tiny", case, five_lines.BASELINE, seconds=0.01)}, machine())
    report.save("tiny", record)
    assert report.load("tiny") == json.loads(json.dumps(record))
    assert {"cpu", "cores", "memory_gib", "os", "python", "numpy", "anyoptim", "commit"} <= set(record["machine"])
    assert "tiny" in report.markdown(record)
    with pytest.raises(ValueError, match="wanted one line <!-- benchmarks:begin -->"):
        report.between_markers("no markers", "")
