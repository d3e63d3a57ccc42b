"""The run for a GPU does what it says, as far as that can be seen without one: on libraries that pretend."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from benchmarks.gpu import __main__, bits, device, graphs, host, masks, rigs, runner, steps, streams, suite, tables
from benchmarks.gpu.goals import Goal, goals
from benchmarks.gpu.gradients import Gradients, compared, difference, trained
from benchmarks.gpu.parts import PARTS, Part, Row
from benchmarks.gpu.rigs import Host, Rig
from benchmarks.gpu.watch import BUSY, IDLE
from benchmarks.machine import ROOT
from benchmarks.methods import CHAIN
from benchmarks.problem import Problem, Shapes
from benchmarks.report import table
from tests import shim
from tests.libraries import Library

SMALL: Shapes = {"scalar": (), "unaligned": (99,), "matrix": (3, 5)}
CHECKS = (1, 10, 20, 21)


class Calls(list[str]):
    """What was asked of a device that is none, and its current stream."""

    def __init__(self) -> None:
        self.current = [FakeStream(self, "null")]


class FakeStream:
    def __init__(self, calls: Calls, name: str = "new") -> None:
        self.calls, self.name = calls, name

    def __enter__(self) -> FakeStream:
        self.calls.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.current.pop()

    def record(self, event: FakeEvent) -> None:
        self.calls.append(f"record on {self.name}")
        event.time = len(self.calls)

    def wait_event(self, event: FakeEvent) -> None:
        assert event.time is not None
        self.calls.append(f"{self.name} waits")

    def begin_capture(self) -> None:
        self.calls.append(f"begin on {self.name}")

    def end_capture(self) -> Any:
        self.calls.append(f"end on {self.name}")
        return SimpleNamespace(launch=lambda stream: self.calls.append(f"launch on {stream.name}"))


class FakeEvent:
    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.time: int | None = None

    def record(self) -> None:
        self.calls.current[-1].record(self)

    def elapsed_time(self, later: FakeEvent) -> float:
        assert self.time is not None
        assert later.time is not None
        return float(later.time - self.time)


def fake_cupy(calls: Calls) -> Any:
    """NumPy with as much of `cupy.cuda` as the parts use."""
    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1, deviceSynchronize=lambda: calls.append("wait"), memGetInfo=lambda: (5, 12)
    )
    cuda = SimpleNamespace(
        runtime=runtime,
        Event=lambda: FakeEvent(calls),
        Stream=lambda non_blocking: FakeStream(calls),
        get_current_stream=lambda: calls.current[-1],
        get_elapsed_time=lambda first, second: first.elapsed_time(second),
    )
    pool = SimpleNamespace(free_all_blocks=lambda: calls.append("free"))
    functions = {name: getattr(np, name) for name in ("array", "empty", "copyto", "zeros_like", "sqrt")}
    return SimpleNamespace(**functions, asnumpy=np.asarray, cuda=cuda, get_default_memory_pool=lambda: pool)


class FakeTorch:
    """torch with as much of `torch.cuda` as the parts use."""

    def __init__(self, calls: Calls) -> None:
        self.cuda = SimpleNamespace(
            is_available=lambda: True,
            synchronize=lambda: calls.append("wait"),
            mem_get_info=lambda: (5, 12),
            empty_cache=lambda: calls.append("free"),
            Event=lambda enable_timing: FakeEvent(calls),
            Stream=lambda: FakeStream(calls),
            stream=lambda stream: stream,
            current_stream=lambda: calls.current[-1],
            CUDAGraph=lambda: SimpleNamespace(replay=lambda: calls.append("replay")),
            graph=lambda graph: self._capture(calls),
        )

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)

    @contextlib.contextmanager
    def _capture(self, calls: Calls) -> Iterator[None]:
        calls.append("begin")
        yield
        calls.append("end")


@pytest.fixture(params=["cupy", "torch-cuda"], ids=["NumPy", "torch"])
def library(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    if request.param == "torch-cuda":
        pytest.importorskip("torch")
    return str(request.param)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def pretended(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> dict[str, Rig]:
    """NumPy in place of CuPy, and torch on the CPU, if there is one; with clocks that count what they were asked."""
    for name, value in {"OCCUPIED": 4096, "BLOCK": 500}.items():
        monkeypatch.setattr(rigs, name, value)
    found: dict[str, Rig] = {"cupy": rigs.CuPy(fake_cupy(calls))}
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401 - only to see whether it is there

        found["torch-cuda"] = rigs.Torch(FakeTorch(calls), "cpu")
    return found


@pytest.fixture
def rig(pretended: dict[str, Rig], library: str) -> Rig:
    return pretended[library]


def test_without_a_gpu_it_ends_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With code 2 and the reason, and without results."""

    def refuse(name: str) -> Any:
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert __main__.main(["--out", str(tmp_path / "results.json")]) == 2
    assert "no NVIDIA GPU can be used here: the NVIDIA driver can't be loaded" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


class FakeDriver:
    """A driver with some devices."""

    def __init__(self, devices: int, status: int = 0) -> None:
        self.devices, self.status = devices, status

    def __getattr__(self, name: str) -> Callable[..., int]:
        def answer(*arguments: Any) -> int:
            match name:
                case "cuInit":
                    return self.status
                case "cuDeviceGetName":
                    arguments[0].value = b"NVIDIA H100"
                case "cuDeviceGetCount" | "cuDeviceGet":
                    arguments[0]._obj.value = self.devices if name == "cuDeviceGetCount" else 0
                case "cuDeviceTotalMem_v2":
                    arguments[0]._obj.value = 80 * 2**30
                case "cuDeviceGetAttribute":
                    arguments[0]._obj.value = {75: 9, 76: 0}[arguments[1]]
                case "cuDriverGetVersion":
                    arguments[0]._obj.value = 13010
                case _:
                    raise AttributeError(name)
            return 0

        return answer


def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the first device; none, and a driver that doesn't start, are reasons."""
    monkeypatch.setattr(device, "_driver_version", lambda: "580.1")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeDriver(1))
    found = device.device()
    assert found == device.Device("NVIDIA H100", "9.0", 80, "13.1", "580.1")
    described = device.described(found, "abc")
    assert described["commit"] == "abc"
    assert {"gpu", "capability", "driver", "cupy-cuda13x", "torch", "numpy", "python"} <= set(described)
    for driver, why in ((FakeDriver(0), "has no device"), (FakeDriver(1, 100), "cuInit of the NVIDIA driver answered")):
        monkeypatch.setattr(ctypes, "CDLL", lambda name, driver=driver: driver)
        with pytest.raises(device.NoDeviceError, match=why):
            device.device()


def test_importing_it_imports_no_library_with_a_device() -> None:
    code = "import sys, benchmarks.gpu.__main__; print(*{'cupy', 'torch', 'jax'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert not done.stdout.strip()


def test_parts_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(PARTS)
    with pytest.raises(SystemExit):
        __main__.main(["--parts", "bits,nonsense"])
    assert "no part has the name nonsense" in capsys.readouterr().err


# Isolation.


def _rows(**rows: Callable[[], dict[str, Any]]) -> Callable[[], Iterator[tuple[str, Row]]]:
    return lambda: iter(rows.items())


def _broken() -> dict[str, Any]:
    raise ValueError("no such luck")


def _broken_rows() -> Iterator[tuple[str, Row]]:
    yield "first", lambda: {"x": 1}
    raise KeyError("halfway")


def test_a_row_that_fails_leaves_the_others(tmp_path: Path) -> None:
    """Its traceback stands in its place; rows made before a part breaks are kept."""
    out = tmp_path / "deep" / "out.json"
    runner.work(Part("", _rows(one=lambda: {"x": 1}, two=_broken, three=lambda: {"x": 3}), 1), out)
    found = json.loads(out.read_text())
    assert [found["rows"][name].get("x") for name in ("one", "two", "three")] == [1, None, 3]
    assert found["rows"]["two"]["error"].endswith("ValueError: no such luck\n")
    assert found["error"] is None
    runner.work(Part("", _broken_rows, 1), out)
    found = json.loads(out.read_text())
    assert found["rows"]["first"]["x"] == 1
    assert "KeyError: 'halfway'" in found["error"]


CHILDREN = {
    "good": "save({'rows': {'r': {'x': 1}}, 'error': None}); print('said')",
    "crashes": "save({'rows': {'r': {'x': 2}}, 'error': None}); os._exit(7)",
    "hangs": "save({'rows': {'r': {'x': 3}}, 'error': None}); time.sleep(60)",
    "silent": "raise SystemExit('nothing to say')",
}


def test_a_part_that_crashes_or_hangs_takes_nothing_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had written before is kept, with how it ended; results are written after every part."""

    def command(name: str, out: Path) -> list[str]:
        prelude = (
            f"import json, os, pathlib, time; save = lambda r: pathlib.Path({str(out)!r}).write_text(json.dumps(r))"
        )
        return [sys.executable, "-c", f"{prelude}\n{CHILDREN[name]}"]

    monkeypatch.setattr(runner, "command", command)
    parts = {name: Part("", _rows(), 3.0, beside_others=name != "good") for name in CHILDREN}
    said: list[str] = []
    out = tmp_path / "results.json"
    results = runner.run(list(parts), {"gpu": "none"}, out, said.append, parts)
    assert json.loads(out.read_text()) == results
    found = results["parts"]
    assert {name: part["rows"].get("r", {}).get("x") for name, part in found.items()} == {
        "crashes": 2,
        "hangs": 3,
        "silent": None,
        "good": 1,
    }
    assert found["crashes"]["error"] == "the process ended with 7"
    assert found["hangs"]["error"] == "ended after 3 seconds"
    assert found["silent"]["error"] == "the process ended with 1"
    assert "nothing to say" in found["silent"]["log"]
    assert (found["good"]["error"], found["good"]["log"]) == (None, "said\n")
    assert [line.split()[2] for line in said] == ["crashes:", "hangs:", "silent:", "good:"]


def test_no_process_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the run is interrupted."""
    children: list[runner.Child] = []

    def start(name: str, seconds: float, folder: Path) -> runner.Child:
        children.append(runner.Child(name, seconds, folder))
        return children[-1]

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    code = {"good": "pass", "hangs": "import time; time.sleep(60)"}
    monkeypatch.setattr(runner, "command", lambda name, out: [sys.executable, "-c", code[name]])
    parts = {name: Part("", _rows(), 30.0, beside_others=True) for name in code}
    with pytest.raises(KeyboardInterrupt):
        runner.run(list(parts), {}, tmp_path / "out.json", interrupted, parts, start)
    assert [child.process.poll() for child in children] == [0, -9]


def test_a_real_part_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Where there is no device it has no rows, and says why."""
    if rigs.present():
        pytest.skip("there is a device, and it would be used")
    found = runner.Child("graphs", 120, tmp_path).finish()
    assert found["error"] is None
    assert found["rows"] == {}
    assert "cupy can't be used:" in found["log"]


def test_there_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part for which no time is left is not started; the limits together are below eight minutes."""
    monkeypatch.setattr(runner, "LIMIT", runner.LEAST - 1)
    results = runner.run(["bits"], {}, tmp_path / "out.json", lambda line: None)
    assert results["parts"]["bits"]["error"] == "no time was left"
    assert sum(max(PARTS[name].seconds for name in group) for group in runner.groups(PARTS)) < 600


def test_parts_that_measure_times_or_memory_run_alone() -> None:
    first, *others = runner.groups(PARTS)
    assert set(first) == {"bits", "tests", "host-tests", "graphs", "sanitizer"}
    assert others == [["steps"], ["host"], ["dropout"], ["streams"]]


# Rigs.


def test_the_rigs_ask_their_libraries(rig: Rig, calls: Calls) -> None:
    """Arrays are copies; events are recorded on the current stream, and streams wait for them."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    x = rig.array(values)
    y = rig.copy(x)
    y[...] = 0
    assert np.array_equal(rig.numpy(x), values)
    rig.assign(y, x)
    assert np.array_equal(rig.numpy(y), values)
    values[0, 0] = 9
    assert rig.numpy(x)[0, 0] == 0
    assert tuple(rig.empty(3).shape) == (3,)
    assert rig.numpy(rig.parameters({"w": values})["w"]).tolist() == values.tolist()
    first, second = rig.event(), rig.event()
    rig.record(first)
    with rig.on(rig.stream()):
        rig.follow(first)
        rig.record(second)
    assert rig.between(first, second) == 2
    rig.wait()
    rig.free()
    assert calls == ["record on null", "new waits", "record on new", "wait", "free"]
    assert rig.used() == 7


def test_graphs_are_captured_and_replayed(rig: Rig, calls: Calls) -> None:
    """The work is called once, within the capture; a capture whose work fails ends all the same."""
    replay = rig.captured(lambda: calls.append("work"))
    replay()
    replay()
    on, launch = (" on new", "launch on new") if rig.name == "cupy" else ("", "replay")
    assert calls == [f"begin{on}", "work", f"end{on}", launch, launch]
    calls.clear()
    with pytest.raises(ValueError, match="no such luck"):
        rig.captured(_broken)
    assert not calls.current[1:]


@pytest.mark.parametrize("n", [1, 499, 500, 1234])
def test_a_copy_moves_everything(rig: Rig, n: int) -> None:
    copy = rigs.Copy(rig, 4 * n)
    rig.assign(copy._to, rig.array(np.full(n, -7.0, np.float32)))
    assert copy.wrong() > 0
    copy()
    assert copy.wrong() == 0
    assert np.all(rig.numpy(copy._from) != 0)


# Bits.


def test_differences_are_counted_in_units_of_the_last_place() -> None:
    """Signed zeros differ by 0 units, NaN beside NaN not at all, beside a number infinitely."""
    for dtype in ("float32", "float64"):
        one = np.array([1.0, 0.0, np.nan, -2.0, np.inf, 0.0], dtype)
        tiny = np.finfo(dtype).smallest_subnormal
        assert difference(one, one) == (0, 0.0)
        assert difference(one, one * np.array([1, -1, 1, 1, 1, -1], dtype)) == (2, 0.0)
        assert difference(one, np.nextafter(one, np.array(-np.inf, dtype))) == (5, 1.0)
        assert difference(np.array([tiny]), np.array([-tiny])) == (1, 2.0)
        assert difference(one, np.array([1, 0, 3, -2, np.inf, 0], dtype)) == (1, math.inf)
        assert difference(np.array(-np.inf, dtype), np.array(np.inf, dtype))[1] > 2e9
    off = compared({"p.W": np.ones(3), "m.W": np.ones(2)}, {"p.W": np.ones(3), "m.W": np.ones(2) + 2**-52})
    assert off == (2, 1.0, ["m.W"])
    with pytest.raises(ValueError, match="other arrays than wanted"):
        compared({"p.W": np.ones(3)}, {"p.W": np.ones(4)})


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_gradients_are_hard_and_the_same_everywhere(rig: Rig, dtype: str) -> None:
    """Subnormals, zeros of both signs, squares that vanish; infinities and NaN at the last step alone."""
    gradients = Gradients({"long": (20_000,)}, dtype, 10)
    here, there = gradients.on(Host()), gradients.on(rig)
    for step in range(11):
        g = here(step)["long"]
        assert rig.numpy(there(step)["long"]).tobytes() == g.tobytes()
        assert np.isfinite(g).all() == (step < 10)
    g = np.concatenate([here(step)["long"] for step in range(10)])
    assert {bool(s) for s in np.signbit(g[g == 0])} == {True, False}
    assert np.any((g != 0) & (np.abs(g) < np.finfo(dtype).smallest_normal))
    assert np.any((g != 0) & (g * g == 0))
    a, b = (there(2)["long"] for _ in range(2))
    a[0] = 5
    assert b[0] != 5
    assert not np.array_equal(here(1)["long"], here(3)["long"])


@pytest.mark.parametrize("subject", bits.SUBJECTS)
def test_every_method_is_compared(pretended: dict[str, Rig], subject: str) -> None:
    """On libraries that are NumPy all is equal, and the row says who ran it."""
    rows = dict(bits.rows(pretended, SMALL, CHECKS))
    assert set(rows) == {f"{s}, {d}, {name}" for s in bits.SUBJECTS for d in bits.DTYPES for name in pretended}
    for name, row in rows.items():
        if name.startswith(f"{subject}, "):
            found = row()
            assert found["equal"], (name, found)
            assert sorted(k for of in found["engines"].values() for k in of) == sorted(SMALL)


def test_other_bits_are_found(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An lr that changes in the last place, from the 12th step on, is seen at the next comparison."""

    class Other(ao.SGD):
        def update(self, params: Any, grads: Any) -> Any:
            steps = 0 if self.state is None else self.state.step
            if steps == 11:
                self.lr = np.nextafter(0.01, 1).item() * (1 + 1e-6)
            return super().update(params, grads)

    gradients = Gradients(SMALL, "float32", 20)
    wanted = dict(trained(Host(), ao.SGD(), gradients, CHECKS))
    monkeypatch.setattr(bits, "SUBJECTS", {"SGD": Other})
    found = bits.row(rig, "SGD", gradients, CHECKS, lambda: wanted)
    assert (found["equal"], found["after"]) == (False, 20)
    assert found["elements"] > 0
    assert 0 < found["ulp"] < math.inf
    assert found["where"]


class Shim(Host):
    """The device that is none, behind which the engine for CUDA runs."""

    name, title = "cupy", "CuPy"

    def array(self, values: Any) -> Any:
        return shim.asarray(values)

    def numpy(self, x: Any) -> Any:
        return shim.tonumpy(x)

    def empty(self, n: int) -> Any:
        return shim.asarray(np.zeros(n, np.float32))

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        machine, graph = shim.machine(), list[Callable[[], object]]()
        machine.captured = graph
        work()
        machine.captured = None

        def replay() -> None:
            machine.waiting.extend(graph)
            machine.finish()

        return replay


@pytest.mark.parametrize("subject", ["Adam", bits.CHAINED])
def test_the_parts_fit_the_engine(
    need: Callable[[str], Library], pretended: dict[str, Rig], subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes every array, with NumPy's bits; also on two streams, and for masks; replays are the called steps."""
    need("cuda-shim")
    rig = Shim()
    found = dict(bits.rows({"cupy": rig}, SMALL, CHECKS))[f"{subject}, float32, cupy"]()
    assert found["equal"]
    assert {engine: sorted(of) for engine, of in found["engines"].items()} == {"cuda": sorted(SMALL)}
    gradients = Gradients(SMALL, "float32", 15)
    replayed = graphs.replayed(rig, subject, gradients)
    assert [replayed[when]["elements"] for when in graphs.WHEN] == [0, 0]
    for optimizer in streams.OPTIMIZERS:
        assert streams.run(rig, optimizer, gradients, 5)["equal"]
    for name, value in {"BLOCK": 500, "SMALL": 20_000}.items():
        monkeypatch.setattr(masks, name, value)
    for direction in masks.DIRECTIONS:
        assert masks.unable({"cupy": rig}, direction)[steps.OURS["cupy"]] == ""
    assert steps.unable("Adam" if subject == "Adam" else CHAIN, {"cupy": steps.Table(rig)})[steps.OURS["cupy"]] == ""


# Times.


def _tables(pretended: dict[str, Rig]) -> dict[str, steps.Table]:
    return {name: steps.Table(rig) for name, rig in pretended.items()}


@pytest.mark.parametrize("method", steps.TIMED)
def test_steps_are_timed_and_right(pretended: dict[str, Rig], method: str) -> None:
    """Everybody takes turns on an idle device and on a busy one, and has the reference's results."""
    tables = _tables(pretended)
    wrong = steps.unable(method, tables)
    there = {who for who in wrong if "torch" not in who or "torch-cuda" in pretended}
    assert {who for who, why in wrong.items() if not why} == there
    row = steps.contest(method, Problem(steps.SMALL), tables, wrong, 0.0)
    assert set(row["candidates"]) == there
    assert (steps.FIVE in there) == (method != CHAIN)
    for who, result in row["candidates"].items():
        assert result["deviation"] <= row["tolerance"], who
        for state in (IDLE, BUSY):
            assert set(result[state]) == {"device_ms", "host_us"}
            # The clock counts calls, and none came between but its own.
            assert result[state]["device_ms"][1] >= 1
    assert row["bytes"] == (40 if method == CHAIN else 28) * row["elements"]


def test_who_can_not_is_left_out(pretended: dict[str, Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason; and so is one who does something else."""
    build = steps.builders

    def some(method: str) -> Any:
        return {
            **build(method),
            steps.COPY: lambda *_: _broken(),
            steps.FIVE: lambda tables, method, problem, reference: build("Adam")[steps.FIVE](
                tables, "SGD" if method == "Adam" else method, problem, reference
            ),
        }

    monkeypatch.setattr(steps, "builders", some)
    monkeypatch.setattr(steps, "FiveLines", lambda xp, lr: SimpleNamespace(update=lambda params, grads: None))
    wrong = steps.unable("Adam", _tables(pretended))
    assert wrong[steps.COPY] == "ValueError: no such luck"
    assert wrong[steps.FIVE].startswith("off the reference by ")
    assert wrong[steps.OURS["cupy"]] == ""


def test_gradients_come_from_pools_that_are_there(pretended: dict[str, Rig]) -> None:
    """Equal to those here, in arrays of their own; of pools the last two are kept."""
    table = steps.Table(pretended["cupy"])
    for shapes in (steps.SMALL, {"scalar": (), "W": (7, 11)}):
        problem, rng = Problem(shapes), np.random.default_rng(0)
        for _ in range(8):
            drawn = problem.draw(rng)
            fresh = table.fresh(drawn)
            for k, a in drawn.arrays.items():
                assert fresh[k].tobytes() == a.tobytes()
                assert fresh[k].shape == a.shape
                assert not np.shares_memory(fresh[k], a)
        assert len(table.pools) == 2


def test_the_host_is_timed(pretended: dict[str, Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "WARM_UP", 1)
    for who, library in host.CANDIDATES.items():
        if library in pretended:
            row = host.costs("Adam", Problem(SMALL), _tables(pretended), who, 3)
            assert min(row["behind"] + row["idle"]) > 0
            assert ("engines" in row) == (who in steps.OURS.values())
    assert len(host.SHAPES[host.MODEL]) == 161


@pytest.mark.parametrize("direction", masks.DIRECTIONS)
def test_dropout_is_timed_and_right(pretended: dict[str, Rig], direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By everybody; its ends are compared with NumPy's, at their place in the whole."""
    for name, value in {"BLOCK": 500, "SMALL": 20_000, "CHECKED": 10_000}.items():
        monkeypatch.setattr(masks, name, value)
    wrong = masks.unable(pretended, direction)
    row = masks.contest(pretended, direction, 30_000, wrong, 0.0)
    who = {*(steps.OURS[name] for name in pretended), steps.COPY, *([masks.TORCH] if "torch-cuda" in pretended else [])}
    assert {name: result["deviation"] for name, result in row["candidates"].items()} == dict.fromkeys(who, 0)
    assert set(row["left_out"]) == set(masks.BUILDERS) - who


def test_other_masks_are_found(pretended: dict[str, Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "BLOCK", 500)
    turns = masks._Ours(pretended["cupy"], 3000)
    x = turns.take(None)
    turns.forward(x)
    assert turns.off() == 0
    turns.last = x, turns.layer.forward(x)[::-1]
    assert turns.off() > 100


# Streams and graphs.


@pytest.mark.parametrize("optimizer", streams.OPTIMIZERS)
def test_a_long_run_goes_over_two_streams(rig: Rig, calls: Calls, optimizer: str) -> None:
    """Each step waits for the one before; bits and memory are compared."""
    found = streams.run(rig, optimizer, Gradients(SMALL, "float32", 20), steady=5)
    assert found["equal"]
    assert (found["steps"], found["since_step"], found["device_bytes_grown"]) == (20, 5, 0)
    assert calls.count("record on new") == 20
    assert calls.count("new waits") == 19


@pytest.mark.parametrize("optimizer", graphs.OPTIMIZERS)
def test_replays_are_compared_with_calls(rig: Rig, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that calls the update is equal; one that does nothing is off at both comparisons."""
    gradients = Gradients(SMALL, "float32", 15)
    monkeypatch.setattr(rig, "captured", lambda work: work)
    found = graphs.replayed(rig, optimizer, gradients)
    assert (found["replays"], found["steps"]) == (10, [15, 15])
    assert [found[when]["elements"] for when in graphs.WHEN] == [0, 0]
    monkeypatch.setattr(rig, "captured", lambda work: lambda: None)
    found = graphs.replayed(rig, optimizer, gradients)
    assert all(found[when]["elements"] > 0 for when in graphs.WHEN)


def test_the_new_lr_reaches_the_calls(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays that keep the old one are equal before it changes, and off after."""

    def frozen(update: partial[Any]) -> Callable[[], object]:
        optimizer = update.func.__self__  # type: ignore[attr-defined]

        def replay() -> None:
            lr, optimizer.lr = optimizer.lr, 0.001
            update()
            optimizer.lr = lr

        return replay

    monkeypatch.setattr(rig, "captured", frozen)
    found = graphs.replayed(rig, "Adam", Gradients(SMALL, "float32", 15))
    assert [found[when]["elements"] > 0 for when in graphs.WHEN] == [False, True]


# Tests and tools.

TESTS = """
import os, time
import pytest

def test_cuda_good(): assert os.environ["ANYOPTIM_REQUIRE"] == "numpy"
def test_cuda_bad(): assert 1 == 2, "sums are off"
def test_cuda_skipped(): pytest.skip("why not")
def test_other(): assert False
"""


def test_tests_are_run_and_failures_listed(tmp_path: Path) -> None:
    """Those that were chosen, with what failed."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import nonsense_that_is_missing")
    found = suite.pytest("cuda", 60, "numpy", str(tmp_path))
    assert (found["failures"], found["errors"], found["skipped"], found["in_time"]) == (1, 1, 1, True)
    names = [name for name, _ in found["failed"]]
    assert any(name.endswith("test_some::test_cuda_bad") for name in names)
    assert any("test_broken" in name for name in names)
    assert "sums are off" in found["tail"]
    said = tables._tests(found)
    assert "1 failures, 1 errors, 1 skipped" in said
    assert "sums are" in said


def test_tests_that_take_too_long_are_ended(tmp_path: Path) -> None:
    """With the report of those that were done."""
    (tmp_path / "test_slow.py").write_text("import time\ndef test_cuda_a(): pass\ndef test_cuda_b(): time.sleep(60)")
    found = suite.pytest("cuda", 6, "numpy", str(tmp_path))
    assert not found["in_time"]
    assert "KeyboardInterrupt" in found["tail"]
    assert "ended before its end" in tables._tests(found)
    assert tables._tests({"in_time": False, "tail": ""}) == "no report, ended before its end"


def test_the_sanitizer_runs_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it is installed; the script compares with NumPy, and its code is the tool's."""
    monkeypatch.setattr(suite, "FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert suite.sanitized("memcheck") == {"missing": "compute-sanitizer is not installed"}
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import os, sys
            at = sys.argv.index({sys.executable!r})
            print("tool", sys.argv[2], flush=True)
            os.execv(sys.argv[at], sys.argv[at:])
            """
        )
    )
    tool.chmod(0o755)
    found = suite.sanitized("memcheck", "numpy")
    assert found["clean"], found["tail"]
    assert found["tail"].startswith("tool memcheck")
    assert found["tail"].count("beside NumPy: Difference(elements=0") == 2
    tool.write_text(f"#!{sys.executable}\nraise SystemExit(9)")
    assert suite.sanitized("racecheck")["code"] == 9


# Goals and tables.


def _timed(**milliseconds: float) -> dict[str, Any]:
    return {
        who: {
            **{state: {"device_ms": [ms, ms, ms], "host_us": [9.0, 9.0, 9.0]} for state in (IDLE, BUSY)},
            "turns": 9,
            "deviation": 0.0,
        }
        for who, ms in milliseconds.items()
    }


def _good() -> dict[str, Any]:
    """Results in which every goal is met."""
    equal = {"equal": True, "elements": 0, "ulp": 0.0, "where": []}
    names = dict.fromkeys(steps.OURS.values(), 1.0)
    step = {**names, steps.COPY: 1.0, steps.FUSED: 4.0, steps.FOREACH: 5.0, steps.FIVE: 9.0}
    grown = {"device_bytes_grown": 0, "host_bytes_grown": 4096, "steps": 10, "since_step": 5}
    off = {"elements": 0, "ulp": 0.0, "where": []}
    rows: dict[str, dict[str, Any]] = {
        "bits": {
            f"{subject}, {dtype}, {library}": {**equal, "after": 1001, "engines": {"cuda": ["w"]}}
            for subject in bits.SUBJECTS
            for dtype in bits.DTYPES
            for library in steps.OURS
        },
        "tests": {
            "pytest": {"code": 0, "in_time": True, "tests": 5, "failures": 0, "errors": 0, "skipped": 1, "failed": []}
        },
        "graphs": {
            f"{o}, {library}": dict.fromkeys(graphs.WHEN, off) for o in graphs.OPTIMIZERS for library in steps.OURS
        },
        "sanitizer": {tool: {"code": 0, "clean": True, "tail": ""} for tool in suite.TOOLS},
        "steps": {
            f"{method}, {size}": {"bytes": 10**9, "tolerance": 5e-5, "left_out": {}, "candidates": _timed(**step)}
            for method in steps.TIMED
            for size in steps.SIZES
        },
        "host": {
            f"Adam, {host.MODEL}: {who}": {
                "behind": [90.0] * 3,
                "idle": [95.0] * 3,
                "engines": {"cuda": [161, None]},
            }
            for who in names
        },
        "dropout": {
            f"{direction}, {size}": {
                "bytes": 10**9,
                "tolerance": 0,
                "left_out": {},
                "candidates": _timed(**{**names, steps.COPY: 0.9, masks.TORCH: 1.1}),
            }
            for direction in masks.DIRECTIONS
            for size in masks.SIZES
        },
        "streams": {f"{o}, {library}": {**equal, **grown} for o in streams.OPTIMIZERS for library in steps.OURS},
    }
    machine = {"gpu": "H100", "capability": "9.0", "gpu_memory_gib": 80, "driver": "580", "cuda": "13.0"}
    return {
        "date": "2026-11-22",
        "seconds": 400.0,
        "machine": {**machine, "python": "3.12", "commit": "abc", "torch": "2.11", "cupy-cuda13x": "14.2"},
        "parts": {name: {"rows": of, "error": None, "log": ""} for name, of in rows.items()},
    }


def _missed(results: dict[str, Any]) -> list[Goal]:
    return [goal for goal in goals(results) if not goal.met]


def test_all_that_was_asked_for_is_a_goal() -> None:
    """With these results each one is met, and none of a part that wasn't run is asked for."""
    results = _good()
    found = goals(results)
    assert not _missed(results)
    assert {goal.wanted for goal in found} == {
        "NumPy's", ">= 0.9", ">= 1", ">= 1.5", ">= 3", ">= 5", ">= 0.85", "< 150 us", "within tolerance",
    }  # fmt: skip
    assert len({goal.name for goal in found}) == len(found)
    assert {goal.name for goal in found if goal.name.startswith("bits of")} == {f"bits of {s}" for s in bits.SUBJECTS}
    results["parts"] = {"streams": results["parts"]["streams"]}
    assert {goal.name for goal in goals(results)} == {f"bits on two streams: {o}" for o in streams.OPTIMIZERS}


def _edit(path: str, value: Any, *keys: str) -> Callable[[Mapping[str, Any]], None]:
    def edit(results: Mapping[str, Any]) -> None:
        part, row = path.split("/")
        of = results["parts"][part]["rows"][row]
        for key in keys[:-1]:
            of = of[key]
        of[keys[-1]] = value

    return edit


OURS = steps.OURS["torch-cuda"]
BELOW: dict[str, tuple[Callable[[Mapping[str, Any]], None], str]] = {
    "copy": (_edit("steps/Adam, GPT-2", [0, 0.8, 0], "candidates", steps.COPY, BUSY, "device_ms"), "against copy"),
    "fused": (_edit("steps/Adam, ResNet-50", [0, 1.4, 0], "candidates", steps.FUSED, BUSY, "device_ms"), "torch fused"),
    "five lines": (
        _edit("steps/Adam, one array of 16M", [0, 4.9, 0], "candidates", steps.FIVE, BUSY, "device_ms"),
        "against five lines",
    ),
    "a wrong step": (_edit("steps/Adam, GPT-2", 1.0, "candidates", OURS, "deviation"), "does the work"),
    "a NaN step": (_edit("steps/Adam, GPT-2", math.nan, "candidates", OURS, "deviation"), "does the work"),
    "host": (_edit(f"host/Adam, {host.MODEL}: {OURS}", [1, 151.0, 200], "behind"), "a call with"),
    "dropout": (_edit("dropout/backward, 64M", [0, 0.8, 0], "candidates", steps.COPY, BUSY, "device_ms"), "backward"),
    "a mask": (_edit("dropout/forward, 16M", 1.0, "candidates", OURS, "deviation"), "Dropout does the work"),
    "bits": (_edit("bits/Adam, float64, cupy", False, "equal"), "bits of Adam"),
    "streams": (_edit("streams/clip + Adam + EMA, cupy", False, "equal"), "two streams"),
}


@pytest.mark.parametrize("what", BELOW)
def test_each_goal_can_be_missed(what: str) -> None:
    """By a result just below, and then it is the only kind that is."""
    change, name = BELOW[what]
    results = _good()
    change(results)
    missed = _missed(results)
    assert missed
    assert all(name in goal.name for goal in missed)


@pytest.mark.parametrize("part", ["bits", "steps", "host", "dropout", "streams"])
def test_what_was_not_measured_is_missed(part: str) -> None:
    """No rows, a row that failed, and a candidate that was left out: all say so."""
    results = _good()
    results["parts"][part]["rows"] = {}
    assert any("not measured" in goal.found for goal in goals(results))
    assert all(not goal.met for goal in goals(results) if "not measured" in goal.found)
    results = _good()
    for row in results["parts"][part]["rows"]:
        results["parts"][part]["rows"][row] = {"error": "Traceback\nOutOfMemoryError: too much\n"}
    assert any("OutOfMemoryError: too much" in goal.found for goal in _missed(results))


def test_who_was_left_out_is_named() -> None:
    results = _good()
    row = results["parts"]["steps"]["rows"]["Adam, GPT-2"]
    del row["candidates"][steps.FUSED]
    row["left_out"] = {steps.FUSED: "RuntimeError: no kernel"}
    assert {goal.found for goal in _missed(results)} == {"torch fused: RuntimeError: no kernel"}


def _printed(results: Mapping[str, Any]) -> str:
    from rich.console import Console

    console = Console(width=__main__.WIDTH, record=True, file=io.StringIO())
    for sheet in tables.sheets(results):
        console.print(table(sheet))
    return console.export_text()


def test_tables_show_everything() -> None:
    """Good results, results full of errors, and none at all."""
    text = _printed(_good())
    assert "MISSED" not in text
    for words in ("H100", "cupy-cuda13x 14.2", "Adam, GPT-2: anyoptim, CuPy", "forward, 256M", "5 tests", "clean"):
        assert words in text
    results = _good()
    for part in results["parts"].values():
        part["error"] = "Traceback\nRuntimeError: the device is lost"
        part["rows"] = {row: {"error": "Traceback\nValueError: no such luck"} for row in part["rows"]}
    text = _printed(results)
    assert "the device is lost" in text
    assert "no such luck" in text
    assert "MISSED" in text
    assert _printed({**_good(), "parts": {}}) == ""


def test_failed_tests_are_shown_with_their_parameters() -> None:
    results = _good()
    results["parts"]["tests"]["rows"]["pytest"]["failed"] = [
        [f"tests.test_x::test_y[cupy-{i}]", "no"] for i in range(30)
    ]
    text = _printed(results)
    assert "test_y[cupy-0]: no" in text
    assert text.count("test_y[") == tables.SHOWN


def test_the_command_ends_with_what_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 0 with all goals met, 1 with one missed; it is shown last, and the results are in the file."""
    monkeypatch.setattr(__main__, "device", lambda: device.Device("H100", "9.0", 80, "13.0", "580"))
    good = _good()
    for equal, code in ((True, 0), (False, 1)):
        rows = {**good["parts"]["streams"]["rows"]}
        rows["Adam with a schedule, cupy"] = {**rows["Adam with a schedule, cupy"], "equal": equal}
        part = Part("", _rows(**{name: partial(dict, row) for name, row in rows.items()}), 60)

        class Inside:
            def __init__(self, name: str, seconds: float, folder: Path, part: Part = part) -> None:
                self.out = folder / name
                runner.work(part, self.out)

            def end(self) -> None: ...

            def finish(self) -> Any:
                return json.loads(self.out.read_text())

        monkeypatch.setattr(__main__, "run", partial(runner.run, start=Inside))
        out = tmp_path / "results.json"
        assert __main__.main(["--parts", "streams", "--out", str(out), "--commit", "abc"]) == code
        results = json.loads(out.read_text())
        assert results["machine"]["commit"] == "abc"
        assert results["parts"]["streams"]["rows"].keys() == rows.keys()
        printed = capsys.readouterr().out
        assert ("MISSED" in printed) == (not equal)
        assert " ".join(printed.split()).endswith("medians of interleaved turns.")
