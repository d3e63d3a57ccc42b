"""Compiling in a process of its own: when it begins, what happens to it, and that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._machine import _compiling, _elsewhere, _machine_code
from anyoptim._machine._elsewhere import Compilation
from anyoptim._machine._generated import Text

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the cache folder by XDG_CACHE_HOME")


DONE = Compilation.done


@pytest.fixture(autouse=True)
def _private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of this test's own, with nothing in it; and processes, where other tests compile here."""
    monkeypatch.setattr(Compilation, "done", DONE)
    pytest.importorskip("numba", reason="the compiled engine needs it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def _text(number: int) -> Text:
    name = f"plus_{number}_{time.perf_counter_ns()}"
    return Text(name, f"def {name}(x, a, b):\n    x[0] = a + {number}\n", "void(int64[::1], int64, int64)")


def _value(of: Text) -> int:
    x = np.zeros(1, np.int64)
    _machine_code.native(of).bind(x, first=1)()
    return int(x[0])


def _soon(true: Callable[[], object]) -> None:
    """Wait until it holds, half a minute at most."""
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it has not come about within half a minute")


def _runs(process: int) -> bool:
    """Whether a process is there, and not merely waits for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _nothing_is_compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compiling, "compiled", lambda of: pytest.fail(f"{of.name} was compiled here"))


def test_what_was_compiled_there_is_kept_and_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process at a time: the second waits for the first, and the third finds what both have left."""
    _nothing_is_compiled_here(monkeypatch)
    texts = [_text(1), _text(2)]
    first, second = (Compilation([text]) for text in texts)
    assert len(_elsewhere._children) == 1
    _soon(lambda: [first.done(), second.done()] == [True, True])
    assert [*map(_value, texts)] == [2, 3]
    for text in texts:
        _machine_code._loaded.pop(text)
    assert Compilation(texts).done()
    assert [*map(_value, texts)] == [2, 3]
    _soon(lambda: not _elsewhere._children)


@pytest.mark.product  # seconds of processes
def test_a_process_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not answered is compiled here; and the next one begins."""
    text = _text(3)
    compilation = Compilation([text])
    (process,) = _elsewhere._children
    process.kill()
    _soon(compilation.done)
    assert not _machine_code.known(text)
    assert _value(text) == 4
    _nothing_is_compiled_here(monkeypatch)
    other = Compilation([_text(4)])
    _soon(other.done)
    assert _value(other._texts[0]) == 5


@pytest.mark.product  # seconds of processes
def test_what_others_print_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Site packages and compilers may: each answer says for which text it is."""
    _nothing_is_compiled_here(monkeypatch)
    (tmp_path / "sitecustomize.py").write_text("print('welcomes')\nprint('anyoptim: YWJj')\nprint('no', end='')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    texts = [_text(10), _text(11)]
    _soon(Compilation(texts).done)
    assert [*map(_value, texts)] == [11, 12]


def test_answers_that_are_cut_short() -> None:
    """By a process that is killed, say: half of an object file would end the process that loads it."""
    texts = [_text(12), _text(13)]
    line = _elsewhere.answer(texts[1], b"symbol\0" + bytes(range(256)))
    assert _elsewhere.answers(line, texts) == [(texts[1], b"symbol\0" + bytes(range(256)))]
    assert _elsewhere.answers(line, texts[:1]) == []
    for end in range(len(line) - 1):
        assert _elsewhere.answers(line[:end], texts) == []


def test_machine_code_that_can_not_be_loaded_is_compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step fails, whatever loading says."""

    def refused(*_: Any, **__: Any) -> None:
        raise ImportError

    compilation = Compilation([text := _text(14)])
    with monkeypatch.context() as patch:
        patch.setattr(_machine_code, "add", refused)
        _soon(compilation.done)
    assert not _machine_code.known(text)
    assert _value(text) == 15


@pytest.mark.product  # seconds of processes
def test_an_interruption_while_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves no process, and the next one begins."""

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_elsewhere.threading, "Thread", interrupted)  # type: ignore[attr-defined]
        with pytest.raises(KeyboardInterrupt):
            Compilation([_text(13)])
    assert not _elsewhere._children
    other = Compilation([_text(14)])
    assert _elsewhere._children
    _soon(other.done)


def test_a_process_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is ended after some time, and what was asked of it is compiled here."""
    sleeping = tmp_path / "python"
    sleeping.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeping.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeping))
    monkeypatch.setattr(_elsewhere, "PATIENCE", 0.2)
    text = _text(15)
    compilation = Compilation([text])
    assert not compilation.done()
    _soon(compilation.done)
    assert not _elsewhere._children
    assert _value(text) == 16


@pytest.mark.parametrize("why", ["frozen", "no interpreter", "no process", "no thread"])
def test_where_no_process_can_be_started(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to wait for: it is compiled here, when it is needed."""

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError if why == "no process" else RuntimeError

    if why == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif why == "no interpreter":
        monkeypatch.setattr(sys, "executable", None)
    elif why == "no process":
        monkeypatch.setattr(subprocess, "Popen", fails)
    else:
        monkeypatch.setattr(_elsewhere.threading, "Thread", fails)  # type: ignore[attr-defined]
    text = _text(5)
    assert Compilation([text]).done()
    assert not _elsewhere._children
    assert _value(text) == 6


@pytest.mark.product  # seconds of processes
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # of threads, which the child here does without
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # JAX's
def test_a_fork_does_not_wait_for_its_parents_process() -> None:
    """It would wait for ever: no thread of its own listens."""
    compilation = Compilation([_text(6)])
    child = os.fork()
    if not child:
        os._exit(0 if compilation.done() and not _elsewhere._children else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert _elsewhere._children
    _soon(compilation.done)


_ENDS = """
import os, sys
from anyoptim._machine import _elsewhere
from anyoptim._machine._generated import Text
compilation = _elsewhere.Compilation(
    [Text(f"f{k}", f"def f{k}(x, a, b):\\n    x[0] = a + {k}\\n", "void(int64[::1], int64, int64)") for k in range(100)]
)
(process,) = _elsewhere._children
print(process.pid, flush=True)
"""


@pytest.mark.parametrize("how", ["at its end", "killed"])
def test_nothing_is_left_behind(how: str) -> None:
    """A program that ends, or is ended, in the middle takes its process with it."""
    environment = os.environ | {"PYTHONPATH": str(Path(ao.__file__).parents[1])}
    code = _ENDS if how == "at its end" else f"{_ENDS}\nimport time\ntime.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        compiler = int(program.stdout.readline())
        if how == "killed":
            assert _runs(compiler)
            program.send_signal(signal.SIGKILL)
        assert program.wait() == (-signal.SIGKILL if how == "killed" else 0)
        assert not program.stderr.read()
    _soon(lambda: not _runs(compiler))
