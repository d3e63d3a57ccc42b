"""Kernels as files: written once, found again by other processes, and of no consequence where they can't be kept."""

from __future__ import annotations

import hashlib
import inspect
import json
import linecache
import os
import shutil
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim._engines import _kernels, _store, compiled
from anyoptim._program import options

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the cache folder by XDG_CACHE_HOME")

PROBE = """
import hashlib, json, sys
import numpy as np
import anyoptim as ao
from anyoptim._engines import _store
made, anew = [], _store.compiled
def compiled(call, signature):
    made.append(anew(call, signature))
    return made[-1]
_store.compiled = compiled
rng = np.random.default_rng(0)
p = rng.normal(size=500).astype(np.float32)
optimizer = ao.Momentum(lr=0.1, engine="compiled")
for _ in range(5):
    optimizer.update(p, rng.normal(size=500).astype(np.float32))
print(json.dumps({
    "bits": hashlib.sha256(p.tobytes()).hexdigest(),
    "functions": len(made),
    "hits": sum(sum(m.stats.cache_hits.values()) for m in made),
    "files": [m.py_func.__code__.co_filename for m in made],
}))
"""


def _start(cache: Path | str, home: Path) -> subprocess.Popen[str]:
    unset = ("NUMBA_", "XDG_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    environment |= {"XDG_CACHE_HOME": str(cache), "HOME": str(home)}
    return subprocess.Popen(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", PROBE],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture(scope="module")
def expected() -> str:
    """What portable makes of the probe's problem."""
    rng = np.random.default_rng(0)
    p = rng.normal(size=500).astype(np.float32)
    optimizer = ao.Momentum(lr=0.1, engine="portable")
    for _ in range(5):
        optimizer.update(p, rng.normal(size=500).astype(np.float32))
    return hashlib.sha256(p.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, expected: str) -> Path:
    """A cache that one process has filled."""
    cache = tmp_path_factory.mktemp("warm")
    found = _finish(_start(cache, cache))
    assert (found["bits"], found["hits"]) == (expected, 0)
    assert found["functions"] >= 2
    return cache


@pytest.fixture
def cache(warm: Path, tmp_path: Path) -> Path:
    """A copy of it, with the same times of change, which Numba compares."""
    return Path(shutil.copytree(warm, tmp_path / "cache"))


def _kept(cache: Path) -> dict[str, tuple[int, str]]:
    """All files with their times of change and contents."""
    return {
        str(path.relative_to(cache)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(cache.rglob("*"))
        if path.is_file()
    }


def test_kernels_lie_in_the_users_cache_named_by_content(warm: Path) -> None:
    """The text of each is that of its name, valid Python; its machine code lies beside it; nothing else is left."""
    folder = warm / "anyoptim" / "kernels"
    texts = sorted(folder.glob("*.py"))
    assert "Momentum_rule" in {path.name.rpartition("_")[0] for path in texts}
    for path in texts:
        text = path.read_text()
        assert path.stem.rpartition("_")[2] == hashlib.sha256(text.encode()).hexdigest()[:16]
        compile(text, str(path), "exec")
        assert list((folder / "__pycache__").glob(f"{path.stem}.*.nbi"))
        assert list((folder / "__pycache__").glob(f"{path.stem}.*.nbc"))
    assert all(name.endswith((".py", ".nbi", ".nbc")) and "/." not in name for name in _kept(warm))
    assert [p.name for p in folder.iterdir() if p.suffix != ".py"] == ["__pycache__"]


def test_a_second_process_compiles_nothing(cache: Path, warm: Path, expected: str) -> None:
    """It loads everything, from the files as they are."""
    before = _kept(warm)
    found = _finish(_start(warm, warm))
    assert found["bits"] == expected
    assert found["hits"] == found["functions"]
    assert _kept(warm) == before
    assert all(file.startswith(str(warm)) for file in found["files"])


def _no_folder(cache: Path) -> None:
    shutil.rmtree(cache)
    cache.write_text("")


def _kernels_are_a_file(cache: Path) -> None:
    shutil.rmtree(cache / "anyoptim" / "kernels")
    (cache / "anyoptim" / "kernels").write_text("")


def _machine_code_is_a_file(cache: Path) -> None:
    folder = cache / "anyoptim" / "kernels" / "__pycache__"
    shutil.rmtree(folder)
    folder.write_text("")


def _texts_are_folders(cache: Path) -> None:
    for path in (cache / "anyoptim" / "kernels").glob("*.py"):
        path.unlink()
        path.mkdir()


def _each(pattern: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(cache: Path) -> None:
        paths = list((cache / "anyoptim" / "kernels").rglob(pattern))
        assert paths
        for path in paths:
            change(path)

    return spoil


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _in_place(path: Path, content: bytes) -> None:
    """With the size and the time of change that Numba knows."""
    stat = path.stat()
    path.write_bytes(content[: stat.st_size].ljust(stat.st_size, b"\n"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


SPOILT: dict[str, Callable[[Path], None]] = {
    "a file for the cache": _no_folder,
    "a file for the kernels": _kernels_are_a_file,
    "a file for the machine code": _machine_code_is_a_file,
    "folders for the texts": _texts_are_folders,
    "another's text": _each("*.py", lambda path: path.write_text("raise SystemExit(7)\n")),
    "another's text of the same size": _each("*.py", lambda path: _in_place(path, b"raise SystemExit(7)\n")),
    "bytes that are no text": _each("*.py", lambda path: path.write_bytes(b"\xff\xfe\x00")),
    "empty texts": _each("*.py", lambda path: path.write_bytes(b"")),
    "no texts": _each("*.py", Path.unlink),
    "half an index": _each("*.nbi", _cut),
    "an index of anything": _each("*.nbi", lambda path: path.write_bytes(b"\x80\x04anything")),
    "an empty index": _each("*.nbi", lambda path: path.write_bytes(b"")),
    "half of the code": _each("*.nbc", _cut),
    "no code": _each("*.nbc", Path.unlink),
    "empty code": _each("*.nbc", lambda path: path.write_bytes(b"")),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_cache_costs_time_and_nothing_else(name: str, cache: Path, expected: str, tmp_path: Path) -> None:
    """Whatever lies there, the result is the same, and nothing that lies there is run."""
    SPOILT[name](cache)
    assert _finish(_start(cache, tmp_path))["bits"] == expected


def test_a_folder_that_can_not_be_made(tmp_path: Path, expected: str) -> None:
    """Not even the superuser can make one here."""
    found = _finish(_start("/proc/anyoptim", tmp_path))
    assert found["bits"] == expected
    assert all(file.startswith("<anyoptim ") for file in found["files"])


def test_a_folder_that_can_not_be_written_to(tmp_path: Path, expected: str) -> None:
    """A home that is read-only."""
    if os.geteuid() == 0:
        pytest.skip("the superuser writes anywhere")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(stat.S_IRUSR | stat.S_IXUSR)
    found = _finish(_start(tmp_path / "cache", tmp_path / "cache"))
    assert found["bits"] == expected
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("number", [2, 4])
def test_processes_that_start_at_once_on_an_empty_cache(number: int, tmp_path: Path, expected: str) -> None:
    """None sees half of another's file, all end with the same bits, and the next compiles nothing."""
    processes = [_start(tmp_path, tmp_path) for _ in range(number)]
    assert [_finish(process)["bits"] for process in processes] == [expected] * number
    found = _finish(_start(tmp_path, tmp_path))
    assert found["bits"] == expected
    assert not [name for name in _kept(tmp_path) if name.endswith(".tmp")]
    assert not [name for name in _kept(tmp_path) if Path(name).name.startswith(".")]


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache for this test, in this process."""
    pytest.importorskip("platformdirs", reason="comes with Numba in the extra `fast`")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


FAILS = "def fails(x):\n    y = x\n    return y / 0  # this line\n"


@pytest.mark.parametrize("kept", [True, False])
def test_tracebacks_and_debuggers_see_the_text(kept: bool, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the text is a file, and where it can't be one."""
    if not kept:
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/anyoptim")
    call = _store.function("fails", FAILS)
    linecache.checkcache()
    assert inspect.getsource(call) == FAILS
    with pytest.raises(ZeroDivisionError) as caught:
        call(1)
    assert "return y / 0  # this line" in "".join(traceback.format_tb(caught.tb))
    assert call.__code__.co_filename.startswith(str(private)) == kept


def test_the_text_of_the_name_is_run_and_not_the_files(private: Path) -> None:
    """What another put there is replaced; what is right is left alone, down to its time of change."""
    file = Path(_store.function("one", "def one():\n    return 1\n").__code__.co_filename)
    os.utime(file, ns=(1, 1))
    assert _store.function("one", "def one():\n    return 1\n")() == 1
    assert file.stat().st_mtime_ns == 1
    file.write_text("def one():\n    return 2\n")
    assert _store.function("one", "def one():\n    return 1\n")() == 1
    assert file.read_text() == "def one():\n    return 1\n"
    other = _store.function("one", "def one():\n    return 3\n")
    assert other() == 3
    assert other.__code__.co_filename != str(file)


def test_the_machine_code_depends_on_the_functions_it_calls(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants of `_headers` and functions of `_jitted` are in it: other texts of these give it another name."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    from anyoptim._engines import _headers, _jitted

    original = inspect.getsource
    stamps = set()
    try:
        for changed in (None, _headers, _jitted):
            monkeypatch.setattr(
                inspect, "getsource", lambda m, c=changed: original(m) + ("# changed\n" if m is c else "")
            )
            compiled._stamp.cache_clear()
            stamps.add(compiled._stamp())
    finally:
        monkeypatch.undo()
        compiled._stamp.cache_clear()
    assert len(stamps) == 3


def test_sources_of_the_blocked_engine_are_shown(method: type[Any]) -> None:
    """Its functions are no files; linecache has them."""
    optimizer = method(engine="blocked")
    optimizer.update(np.ones(3), np.ones(3))
    track = optimizer._pipeline.track
    kernel = _kernels.kernel(track.program, None, options(optimizer._pipeline.sample(track)))
    linecache.checkcache()
    assert inspect.getsource(kernel.call) in optimizer.kernel_source("blocked")
