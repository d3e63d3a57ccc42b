"""The run for a GPU does what it says, as far as that can be seen without one: on libraries that pretend."""

from __future__ import annotations

import functools
import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

import anyoptim as ao
from benchmarks.gpu import __main__, goals, rigs, runner, runs, steps, suite
from benchmarks.gpu.__main__ import PARTS
from benchmarks.gpu.gradients import Gradients, compared
from benchmarks.gpu.rigs import Rig
from benchmarks.gpu.runner import Part
from benchmarks.harness import play
from benchmarks.machine import ROOT
from benchmarks.methods import CHAIN
from benchmarks.names import FUSED, OPTAX
from benchmarks.problem import Problem, Shapes
from tests.support import shim
from tests.support.libraries import Library

SMALL: Shapes = {"scalar": (), "unaligned": (99,), "matrix": (3, 5)}


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Rig]:
    """NumPy in place of CuPy, and torch on the CPU, if there is one; long arrays are short."""
    monkeypatch.setattr(steps, "BLOCK", 20_000)
    functions = {name: getattr(np, name) for name in ("array", "copyto", "tile")}
    numpy = SimpleNamespace(**functions, asnumpy=np.asarray, cuda=MagicMock(), get_default_memory_pool=MagicMock())
    found: dict[str, Any] = {"cupy": rigs.CuPy(numpy)}
    with suppress(ImportError):
        torch: Any = importlib.import_module("torch")
        of_torch = {"cuda": MagicMock(), "__getattr__": lambda self, name: getattr(torch, name)}
        found["torch-cuda"] = rigs.Torch(type("Torch", (), of_torch)(), "cpu")
    for rig in found.values():  # whose cuda notes whatever it's asked
        rig.cuda.runtime.memGetInfo.return_value = rig.cuda.mem_get_info.return_value = (5, 12)
    return found


@pytest.fixture(params=["cupy", "torch-cuda"], ids=["NumPy", "torch"])
def rig(request: pytest.FixtureRequest, pretended: dict[str, Rig]) -> Any:
    if request.param not in pretended:
        pytest.skip("torch is not installed")
    return pretended[request.param]


def test_without_a_gpu_it_ends_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With code 2 and the reason, and without results or any library with a device; elsewhere within eight minutes."""
    code = "import sys, benchmarks.gpu.__main__; assert not {'cupy', 'torch', 'jax', 'cuda'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    beside = {name: part.seconds for name, part in PARTS.items() if not part.alone}
    assert {*beside} == {"bits", "tests", "graphs", "sanitizer"}
    limits = [part.seconds for part in PARTS.values() if part.alone]
    assert sum(limits) + max(beside.values()) <= runner.LIMIT < 480
    if rigs.present():
        pytest.skip("there is a device, and it would be used")
    assert __main__.main(["--out", str(tmp_path / "results.json")]) == 2
    assert "no NVIDIA GPU can be used here: " in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


CHILDREN = {
    "crashes": "save({'r': {'x': 2}}); os._exit(7)",
    "hangs": "save({'r': {'x': 3}}); time.sleep(60)",
    "silent": "raise SystemExit('nothing to say')",
    "good": "save({'r': {'x': 1}}); print('said')",
}


@pytest.mark.product  # seconds of processes
def test_a_part_that_crashes_or_hangs_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had written is kept, with how it ended, after every part; an interrupted run leaves no process behind."""

    def command(name: str, out: Path) -> list[str]:
        save = f"import json, os, pathlib, time; save = lambda r: pathlib.Path({str(out)!r}).write_text(json.dumps(r))"
        return [sys.executable, "-c", f"{save}\n{CHILDREN[name]}"]

    monkeypatch.setattr(runner, "command", command)
    children = {name: Part("", lambda: iter(()), 2.0, alone=name == "good") for name in CHILDREN}
    said: list[str] = []
    results = runner.run(children, {"gpu": "none"}, tmp_path / "results.json", said.append)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    found = results["parts"].values()
    assert [part["rows"].get("r", {}).get("x") for part in found] == [2, 3, None, 1]
    ends = ["the process ended with 7", "its time was over", "the process ended with 1", ""]
    assert [part["error"] for part in found] == ends
    assert [part["log"] for part in found][2:] == ["nothing to say\n", "said\n"]
    assert [line.split()[2] for line in said] == [f"{name}:" for name in children]
    ended, end = list[int | None](), runner.Child.end

    def noted(child: runner.Child) -> None:
        end(child)
        ended.append(child.process.poll())

    monkeypatch.setattr(runner.Child, "end", noted)
    with pytest.raises(ZeroDivisionError):
        runner.run(children, {}, tmp_path / "out.json", lambda line: 1 / 0)
    assert (len(ended), None in ended) == (3, False)


@pytest.mark.product  # seconds of processes
def test_a_real_part_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Where there is no device it has no rows, and says why. In place of a row that fails stands its traceback."""
    found = runner.Child("graphs", 120, tmp_path).finish()
    assert (found["error"], bool(found["rows"])) == ("", bool(rigs.present()))
    assert found["rows"] or "cupy can't be used:" in found["log"]
    rows: dict[str, Any] = {"one": lambda: {"x": 1}, "two": lambda: {"x": 1 / 0}, "three": lambda: {"x": 3}}
    runner.work(Part("", lambda: iter(rows.items()), 1), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert [found[name].get("x") for name in rows] == [1, None, 3]
    assert found["two"]["error"].endswith("ZeroDivisionError: division by zero\n")


def test_the_rigs_ask_their_libraries(rig: Any) -> None:
    """Arrays are copies; streams wait for events; a graph is the work called once, within its capture."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = rig.array(values)
    y = rig.copy(x)
    y[...] = 0
    assert np.array_equal(rig.numpy(x), values)
    rig.assign(y, x)
    assert np.array_equal(rig.numpy(y), values)
    assert rig.numpy(rig.parameters({"w": np.broadcast_to(values[0], (4, 3))})["w"]).tolist() == [[0, 1, 2]] * 4
    rig.cuda.reset_mock()
    with rig.stream()():
        rig.follow(rig.mark())
    rig.captured(rig.cuda.work)()
    assert rig.used() == 7
    cupy, torch = ["begin_capture", "work", "end_capture", "launch"], ["graph", "work", "replay"]
    wanted = ["wait_event", *(cupy if rig.name == "cupy" else torch)]
    names = [name.rpartition(".")[2] for name, *_ in rig.cuda.mock_calls]
    assert [name for name in names if name in wanted] == wanted


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_differences_are_counted_in_units_of_the_last_place(dtype: str) -> None:
    """Signed zeros differ by 0 units, NaN beside NaN not at all, beside a number infinitely."""
    one = np.array([1.0, 0.0, np.nan, -2.0, np.inf, 0.0], dtype)
    others = {
        (0, 0.0): one,
        (2, 0.0): one * np.array([1, -1, 1, 1, 1, -1], dtype),
        (5, 1.0): np.nextafter(one, np.array(-np.inf, dtype)),
        (1, math.inf): np.array([1, 0, 3, -2, np.inf, 0], dtype),
    }
    for wanted, other in others.items():
        found = compared({"p.W": one}, {"p.W": other})
        assert (found["elements"], found["ulp"], found["equal"]) == (*wanted, not wanted[0])
    with pytest.raises(ValueError, match="other arrays than wanted"):
        compared({"p.W": np.ones(3)}, {"p.W": np.ones(4)})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_are_hard_and_the_same_everywhere(rig: Any, dtype: str) -> None:
    """Subnormals, zeros of both signs, squares that vanish; infinities and NaN at the last step alone."""
    made = Gradients({"long": (20_000,)}, dtype, 10)
    here, there = made.on(Rig()), made.on(rig)
    for step in range(11):
        g = here(step)["long"]
        assert rig.numpy(there(step)["long"]).tobytes() == g.tobytes()
        assert np.isfinite(g).all() == (step < 10)
    g = np.concatenate([here(step)["long"] for step in range(10)])
    assert {*np.signbit(g[g == 0]).tolist()} == {True, False}
    small = g[(g != 0) & (g * g == 0)]
    assert np.min(np.abs(small)) < np.finfo(dtype).smallest_normal < np.max(np.abs(small))


@pytest.mark.parametrize("subject", runs.SUBJECTS)
def test_every_method_and_chain_is_compared(pretended: dict[str, Rig], subject: str) -> None:
    """On libraries that are NumPy all is equal, and the row says who ran it."""
    for rig in pretended.values():
        found = runs.steps(rig, subject, Gradients(SMALL, "float32", 20), (1, 10, 20, 21))
        assert found["equal"], found
        assert sorted(k for of in found["engines"].values() for k in of) == sorted(SMALL)


def test_other_bits_are_found(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An lr that changes in the last places, from the 12th step on, is seen at the next comparison."""
    made = Gradients(SMALL, "float32", 20)
    wanted = runs._wanted("SGD", made, (10, 20))
    monkeypatch.setattr(runs, "_wanted", lambda *_: wanted)
    monkeypatch.setattr(runs, "SUBJECTS", {"SGD": lambda: ao.SGD(lr=lambda t: 0.01 * (1 + 1e-6 * (t > 11)))})
    found = runs.steps(rig, "SGD", made, (10, 20))
    assert (found["equal"], found["after"], bool(found["where"])) == (False, 20, True)
    assert 0 < found["ulp"] < math.inf


@pytest.mark.parametrize("subject", runs.LONG_RUNS)
def test_a_long_run_goes_over_two_streams(rig: Any, subject: str) -> None:
    """Each step waits for the one before; bits and memory are compared."""
    found = runs.streamed(rig, subject, Gradients(SMALL, "float32", 20), steady=5)
    assert (found["equal"], found["device_bytes_grown"]) == (True, 0)
    assert sum(name.endswith("wait_event") for name, *_ in rig.cuda.mock_calls) == 19


@pytest.mark.parametrize("subject", runs.REPLAYED)
def test_replays_are_compared_with_calls(rig: Any, subject: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that calls the update is equal; one that does nothing, or keeps the old lr, is off."""

    def frozen(update: partial[Any]) -> Callable[[], object]:
        part = runs.REPLAYED[subject][1](update.func.__self__)  # type: ignore[attr-defined]

        def replay() -> None:
            part.lr = 0.001
            update()

        return replay

    captures: list[tuple[Any, int, bool]] = [(lambda work: work, 15, True), (frozen, 15, False)]
    for captured, after, equal in (*captures, (lambda work: lambda: None, 11, False)):
        monkeypatch.setattr(rig, "captured", captured)
        found = runs.replayed(rig, subject, Gradients(SMALL, "float32", 15))
        assert (found["equal"], found["after"]) == (equal, after)


class Shim(Rig):
    """The device that is none, behind which the engine for CUDA runs."""

    def array(self, values: Any) -> Any:
        return shim.asarray(values)

    def numpy(self, x: Any) -> Any:
        return shim.tonumpy(x)

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        machine, graph = shim.machine(), list[Callable[[], object]]()
        machine.captured = graph
        work()
        machine.captured = None
        return lambda: [one() for one in graph]


def test_the_parts_fit_the_engine(need: Callable[[str], Library], pretended: dict[str, Rig]) -> None:
    """It takes every array, with NumPy's bits; also on two streams, in replays, for masks and for timed steps."""
    need("cuda-shim")
    there, made = {"cupy": Shim()}, Gradients(SMALL, "float32", 15)
    for subject in ("Adam", "clip, Adam, EMA"):
        found = runs.steps(there["cupy"], subject, made, (1, 15))
        assert (found["equal"], [*found["engines"]]) == (True, ["cuda"])
    assert all(runs.replayed(there["cupy"], subject, made)["equal"] for subject in runs.REPLAYED)
    assert all(runs.streamed(there["cupy"], subject, made, 5)["equal"] for subject in runs.LONG_RUNS)
    cases = [steps._masks(direction, there, 2000, [steps.OURS["cupy"]]) for direction in steps.DIRECTIONS]
    cases += [steps._steps(method, there, steps.SMALL, [steps.OURS["cupy"]]) for method in steps.TIMED]
    for case in cases:
        play(case, 2, np.random.default_rng(0))
        assert case.candidates[0].deviation() <= case.tolerance


MAKE: dict[str, tuple[list[str], Any, Any]] = {
    "Adam": ([FUSED, steps.FIVE, OPTAX], partial(steps._steps, "Adam"), Problem(SMALL)),
    "a long array": ([FUSED, steps.FIVE, OPTAX], partial(steps._steps, "Adam"), None),
    "a chain": ([FUSED, OPTAX], partial(steps._steps, CHAIN), Problem(SMALL)),
    **{way: ([steps.DROPOUT], partial(steps._masks, way), 50_000) for way in steps.DIRECTIONS},
}


@pytest.mark.parametrize("what", MAKE)
def test_all_are_timed_and_right(pretended: dict[str, Rig], what: str) -> None:
    """By everybody, beside the reference; and who can't is left out with the reason."""
    peers, make, n = MAKE[what]
    who, at = [*steps.OURS.values(), *peers, steps.COPY], partial(make, pretended)
    row = steps.contest(what, pretended, who, partial(at, n or steps.SMALL), partial(at, n or steps.Tiled(3)), 10**6, 0)
    there = {one for one in who if one != OPTAX and ("torch" not in one or "torch-cuda" in pretended)}
    assert ({*row["timings"]}, {*row["left_out"]}) == (there, {*who} - there), row["left_out"]


def test_rows_have_names_and_the_host_is_timed(pretended: dict[str, Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runs, steps):
        monkeypatch.setattr(module, "present", lambda: {"cupy": pretended["cupy"]})
    monkeypatch.setattr(runs, "LONG", SMALL)
    monkeypatch.setattr(steps, "SIZES", dict.fromkeys(steps.SIZES, lambda: steps.SMALL))
    assert len([*runs.bits()]) == 2 * len(runs.SUBJECTS)
    names = {"steps": {name for name, _ in steps.steps()}, "dropout": {name for name, _ in steps.masks()}}
    assert all(name in names[part] for part, name, *_ in goals.RATIOS)
    assert f"Adam, {steps.MODEL}: {steps.OURS['cupy']}" in dict(steps.host())
    assert min(steps.costs("Adam", SMALL, pretended["cupy"], 7)["behind"]) > 0


TESTS = """
import os, time, pytest
def test_cuda_good(): assert os.environ["ANYOPTIM_REQUIRE"] == "numpy"
def test_cuda_bad(): assert 1 == 2, "sums are off"
def test_other(): assert False
"""


@pytest.mark.product  # seconds of processes
def test_tests_are_run_and_failures_listed(tmp_path: Path) -> None:
    """Those that were chosen, with what failed; those that take too long are ended."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import nonsense_that_is_missing")
    found = suite.pytest("cuda", 60, "numpy", str(tmp_path))
    assert "1 failures, 1 errors" in goals._tests(found)
    assert any(name.endswith("test_some::test_cuda_bad") for name, _ in found["failed"])
    (tmp_path / "test_slow.py").write_text("import time\ndef test_cuda(): time.sleep(60)")
    assert "ended before its end" in goals._tests(suite.pytest("cuda", 2, "numpy", str(tmp_path / "test_slow.py")))


def test_the_sanitizer_runs_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is installed; the script compares with NumPy, and its code is the tool's."""
    monkeypatch.setattr(suite, "FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert suite.sanitized("memcheck") == {"missing": "compute-sanitizer is not installed"}
    tool = tmp_path / "compute-sanitizer"
    run = f"i = sys.argv.index({sys.executable!r})\nos.execv(sys.argv[i], sys.argv[i:])"
    for code, text in ((9, "raise SystemExit(9)"), (0, f"import os, sys\n{run}")):
        tool.write_text(f"#!{sys.executable}\n{text}")
        tool.chmod(0o755)
        row = suite.sanitized("memcheck", "numpy")
        assert (row["code"], row["tail"].count("'equal': True")) == (code, 0 if code else 2), row["tail"]


def _good() -> dict[str, Any]:
    """Results in which every goal is met."""
    equal = {"equal": True, "elements": 0, "ulp": 0.0, "where": [], "device_bytes_grown": 0, "host_bytes_grown": 4096}
    others = {steps.COPY: 1.0, FUSED: 3.0, steps.FIVE: 4.0, steps.DROPOUT: 1.1}
    ratios = {**dict.fromkeys(steps.OURS.values(), 1.0), **others}
    timed = {"timings": {k: {"median": v} for k, v in ratios.items()}, "ratios": ratios, "steps": 2, "left_out": {}}
    called = {"behind": [90.0] * 3, "idle": [95.0] * 3, "engines": {"cuda": 161}}
    rows: dict[str, dict[str, Any]] = {
        **{part: {"a": equal} for part in ("bits", "graphs", "streams")},
        "tests": {"a": {"code": 0, "in_time": True, "tests": 5, "failures": 0, "errors": 0, "failed": []}},
        "sanitizer": {"a": {"code": 0, "tail": ""}, "b": {"missing": "not there"}},
        "host": {f"Adam, {steps.MODEL}: {who}": called for who in steps.OURS.values()},
        **{part: {name: timed for of, name, *_ in goals.RATIOS if of == part} for part in ("steps", "dropout")},
    }
    parts = {name: {"rows": of, "error": "", "log": ""} for name, of in json.loads(json.dumps(rows)).items()}
    return {"date": "2026-11-22", "seconds": 400.0, "machine": {"gpu": "H100", "cupy": "14.2"}, "parts": parts}


def _missed(results: Mapping[str, Any]) -> list[goals.Goal]:
    return [goal for goal in goals.goals(results) if not goal.met]


BELOW: dict[str, tuple[str, str, tuple[str, ...], Any]] = {
    "copy": ("steps", "Adam, GPT-2", ("timings", steps.COPY, "median"), 0.8),
    "fused": ("steps", "Adam, ResNet-50", ("timings", FUSED, "median"), 1.4),
    "five lines": ("steps", "Adam, one array of 16M", ("timings", steps.FIVE, "median"), 3.9),
    "host": ("host", f"Adam, {steps.MODEL}: {steps.OURS['cupy']}", ("behind",), [1, 101.0, 200]),
    "dropout": ("dropout", "backward, 64M", ("timings", steps.DROPOUT, "median"), 0.9),
    "who was left out": ("dropout", "forward, 16M", ("left_out",), {steps.OURS["cupy"]: "no kernel"}),
    "bits": ("bits", "a", ("equal",), False),
    "memory": ("streams", "a", ("host_bytes_grown",), 1 << 30),
    "tests": ("tests", "a", ("code",), 1),
    "sanitizer": ("sanitizer", "a", ("code",), 9),
}


@pytest.mark.parametrize("what", BELOW)
def test_each_goal_can_be_missed(what: str) -> None:
    """By a result just below, and then it is the only kind that is."""
    part, row, (*keys, last), value = BELOW[what]
    results = _good()
    assert not _missed(results)
    functools.reduce(dict.__getitem__, keys, results["parts"][part]["rows"][row])[last] = value
    assert {row in goal.name or goal.name == part or part == "host" for goal in _missed(results)} == {True}


@pytest.mark.parametrize("part", PARTS)
def test_what_was_not_measured_is_missed(part: str) -> None:
    """No rows, and a row that failed, both say so; of a part that wasn't run nothing is asked."""
    results = _good()
    lost = {row: {"error": "Traceback\nOSError: lost\n"} for row in results["parts"][part]["rows"]}
    for found, why in (({}, "not measured"), (lost, "OSError: lost")):
        results["parts"][part]["rows"] = found
        assert _missed(results)
        assert all(why in goal.found for goal in _missed(results))
    del results["parts"][part]
    assert not _missed(results)


def test_the_command_shows_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Code 0 with all goals met, 1 with one missed: which is shown, and so is what went wrong."""
    monkeypatch.setattr(__main__, "described", lambda: {"gpu": "H100"})
    results = _good()
    monkeypatch.setattr(runner, "run", run := MagicMock(return_value=results))
    assert __main__.main(["--parts", "streams", "--out", "out", "--commit", "abc"]) == 0
    parts, machine, out, _ = run.call_args.args
    assert ([*parts], machine, out) == (["streams"], {"gpu": "H100", "commit": "abc"}, Path("out"))
    text = capsys.readouterr().out
    assert all(words in text for words in ("H100", "cupy 14.2", "Adam, GPT-2", "forward, 256M", "{'cuda': 161}"))
    results["parts"]["tests"]["rows"]["a"].update(code=1, failed=[[f"test_y[cupy-{i}]", "no"] for i in range(30)])
    results["parts"]["bits"]["error"] = "its time was over"
    assert __main__.main([]) == 1
    text = capsys.readouterr().out
    assert (text.count("test_y[cupy-"), text.count("its time was over"), text.count("MISSED")) == (12, 1, 1)
    run.return_value = {**results, "parts": {}}
    assert __main__.main([]) == 0
    assert capsys.readouterr().out == ""
