"""Kernels as files: made once, found again by other processes, and of no consequence where they can't be kept."""

from __future__ import annotations

import ast
import compileall
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
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim._machine import _compiling, _machine_code
from anyoptim._machine._generated import Text
from tests.support.internals import disk_cache as _disk_cache
from tests.support.internals import dropout_compiled

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the cache folder by XDG_CACHE_HOME")

PROBE = """
import hashlib, json, sys
import numpy as np
import anyoptim as ao
from anyoptim._machine import _machine_code
made, add = [], _machine_code.add
def adding(text, content, *, keep=False):
    made.append(keep)
    add(text, content, keep=keep)
_machine_code.add = adding
rng = np.random.default_rng(0)
p = rng.normal(size=500).astype(np.float32)
optimizer = ao.Momentum(lr=0.1)
optimizer.compile(p)
for _ in range(5):
    optimizer.update(p, rng.normal(size=500).astype(np.float32))
(share,) = optimizer.explain(p, p)
print(json.dumps({
    "bits": hashlib.sha256(p.tobytes()).hexdigest(),
    "engine": [share.engine, share.reason],
    "functions": len(made),
    "file": ao.__file__,
    "hits": made.count(False),
    "numba": "numba" in sys.modules,
}))
"""
"""What a user runs in a process of its own: how many functions were loaded, and how many of them from files."""


def _start(code: str = PROBE, **environment: str | Path) -> subprocess.Popen[str]:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_", "HOME"))}
    known["PYTHONPATH"] = str(Path(ao.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "error::RuntimeWarning", "-c", code],
        env=known | {key: str(value) for key, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not err
    found: dict[str, Any] = json.loads(out)
    assert found["engine"] == ["compiled", None]
    assert found["functions"] >= 2
    return found


def _run(code: str = PROBE, **environment: str | Path) -> dict[str, Any]:
    return _finish(_start(code, **environment))


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
    found = _run(XDG_CACHE_HOME=cache)
    assert (found["bits"], found["hits"]) == (expected, 0)
    return cache


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a cache for this test, in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "anyoptim"


ONE = Text("one", "def one(x, a, b):\n    x[0] = a + 1\n", "void(int64[::1], int64, int64)")
TWO = Text("two", "def two(x, a, b):\n    x[0] = a + 2\n", "void(int64[::1], int64, int64)")


def _value(of: Text) -> int:
    """What the function makes of 1."""
    x = np.zeros(1, np.int64)
    _machine_code.native(of).bind(x, first=1)()
    return int(x[0])


def _hit(of: Text) -> bool:
    """Whether the function comes from a file, for a process that has none of it yet."""
    _machine_code._loaded.pop(of, None)
    return _machine_code.known(of)


def _found() -> int:
    """Two functions, which are right wherever they come from: how many came from files."""
    need_numba()
    hits = sum(map(_hit, (ONE, TWO)))
    assert (_value(ONE), _value(TWO)) == (2, 3)
    return hits


def need_numba() -> None:
    pytest.importorskip("numba", reason="the compiled engine needs it")


def _kept(cache: Path) -> dict[str, tuple[int, str]]:
    """All files with their times of change and contents."""
    return {
        str(path.relative_to(cache)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(cache.rglob("*"))
        if path.is_file()
    }


def _with_digest(name: str, content: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + content).digest() + content


def test_kernels_lie_in_the_users_cache_with_their_digests(warm: Path) -> None:
    """Nothing else does, and nobody else may write or read there."""
    folder = warm / "anyoptim"
    assert os.listdir(warm) == ["anyoptim"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.iterdir())) >= 2
    for path in folder.iterdir():
        assert path.suffix == ".kernel"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == _with_digest(path.name, path.read_bytes()[32:])


def test_a_second_process_compiles_nothing(warm: Path, expected: str) -> None:
    """It loads everything, from the files as they are, and no Numba."""
    before = _kept(warm)
    found = _run(XDG_CACHE_HOME=warm)
    assert (found["bits"], found["numba"]) == (expected, False)
    assert found["hits"] == found["functions"]
    assert _kept(warm) == before


# What lies there is not trusted ------------------------------------------------------------------------------------


def _each(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        paths = list(folder.iterdir())
        assert paths
        for path in paths:
            change(path)

    return spoil


def _a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def _folders(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _each_others(folder: Path) -> None:
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    for path, content in zip(sorted(folder.iterdir()), [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)


def _unsigned(path: Path) -> None:
    path.write_bytes(bytes(32) + path.read_bytes()[32:])


def _signed(folder: Path) -> None:
    """Give each the content of another, with a digest of its own."""
    paths = sorted(folder.iterdir())
    contents = [path.read_bytes()[32:] for path in paths]
    for path, content in zip(paths, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(_with_digest(path.name, content))


def _writable(mode: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        _signed(folder)
        folder.chmod(mode)

    return spoil


def _a_link(folder: Path) -> None:
    _signed(folder)
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


def _anothers(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only the superuser can give files away")
    _signed(folder)
    os.chown(folder, 12345, 12345)


def _writable_files(folder: Path) -> None:
    _signed(folder)
    for path in folder.iterdir():
        path.chmod(0o666)


SPOILT: dict[str, Callable[[Path], None]] = {
    "a file for the folder": _a_file,
    "folders for the files": _each(_folders),
    "a bit": _each(_a_bit),
    "each other's content": _each_others,
    "files without a digest": _each(_unsigned),
    "a folder that the group can write to": _writable(0o770),
    "a folder that all can write to": _writable(0o777),
    "files that all can write to": _writable_files,
    "a link": _a_link,
    "another's folder": _anothers,
}
RARE = {"a file for the folder", "folders for the files", "a folder that the group can write to", "a link"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.product if name in RARE else ()) for name in SPOILT]
)
def test_a_spoilt_cache_costs_time_and_nothing_else(name: str, private: Path) -> None:
    """Whatever lies there, the result is the same, and nothing that lies there is run."""
    assert [_found(), _found()] == [0, 2]
    SPOILT[name](private)
    assert _found() == 0


@pytest.mark.product  # seconds of processes
def test_a_spoilt_cache_of_a_process_that_trains(warm: Path, tmp_path: Path, expected: str) -> None:
    """The same of the engine's kernels, and of what it tries first."""
    cache = Path(shutil.copytree(warm, tmp_path / "cache"))
    _each(_unsigned)(cache / "anyoptim")
    found = _run(XDG_CACHE_HOME=cache)
    assert (found["bits"], found["hits"]) == (expected, 0)


def test_what_has_its_digest_in_a_private_folder_is_run(private: Path) -> None:
    """So that those above are refused for where they lie: who can write there can do all that the user can."""
    assert _found() == 0
    _signed(private)
    assert [_hit(ONE), _hit(TWO)] == [True, True]
    assert (_value(ONE), _value(TWO)) == (3, 2)
    for of in (ONE, TWO):
        _machine_code._loaded.pop(of)


@given(data=st.data())
def test_any_damage_is_noticed(data: st.DataObject, private: Path) -> None:
    """Bits flipped, bytes cut off, put in and taken away: the file is as none."""
    content = data.draw(st.binary(min_size=1, max_size=100))
    _disk_cache.keep("name", content)
    held = (private / "name").read_bytes()
    assert _disk_cache.read("name") == content
    place, more = data.draw(st.integers(0, len(held) - 1)), data.draw(st.binary(min_size=1, max_size=40))
    flipped = held[:place] + bytes([held[place] ^ 1 << data.draw(st.integers(0, 7))]) + held[place + 1 :]
    for damaged in (flipped, held[:place], held[:place] + more + held[place:], held + more, held[place + 1 :], more):
        (private / "name").write_bytes(damaged)
        assert _disk_cache.read("name") is None


def test_flipped_bits_of_machine_code_are_never_loaded(private: Path) -> None:
    """A thousand of them; and then the function is made anew and kept again."""
    need_numba()
    assert (_hit(ONE), _value(ONE), _hit(ONE)) == (False, 2, True)
    (path,) = private.iterdir()
    held, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(1000):
        damaged = bytearray(held)
        damaged[rng.integers(len(held))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert not _hit(ONE)
    assert (_value(ONE), _hit(ONE)) == (2, True)
    assert path.read_bytes() == _with_digest(path.name, path.read_bytes()[32:])


def test_the_umask_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the folder, nor those that had to be made for it, nor the files; and they are read again."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = os.umask(0)
    try:
        assert [_found(), _found()] == [0, 2]
    finally:
        os.umask(before)
    paths = [tmp_path / "home", *(tmp_path / "home").rglob("*")]
    assert len(paths) == 1 + 2 + 2
    for path in paths:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


# Compiling is never a reason to stop ---------------------------------------------------------------------------------


@pytest.mark.product  # rare, and seconds of processes
def test_a_folder_that_can_not_be_made(expected: str) -> None:
    """Not even the superuser can make one here."""
    found = _run(XDG_CACHE_HOME="/proc/anyoptim")
    assert (found["bits"], found["hits"]) == (expected, 0)


def test_a_folder_that_can_not_be_written_to(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home that is read-only: what is there is read."""
    if os.geteuid() == 0:
        pytest.skip("the superuser writes anywhere")
    assert _found() == 0
    private.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert _found() == 2
    empty = private.parent / "empty"
    empty.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty))
    assert [_found(), _found()] == [0, 0]
    assert not list(empty.iterdir())


@pytest.mark.parametrize("unset", [{}, {"XDG_CACHE_HOME": "cache"}])
def test_a_user_without_a_home(unset: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, say: nothing is kept, least of all where the process happens to be."""

    def absent(_: int) -> None:
        raise KeyError

    monkeypatch.chdir(tmp_path)
    for variable in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in unset.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("pwd.getpwuid", absent)
    assert [_found(), _found()] == [0, 0]
    assert not os.listdir(tmp_path)


@pytest.mark.product  # rare, and seconds of processes
def test_a_user_whom_the_system_does_not_know(tmp_path: Path, expected: str) -> None:
    """By another number, in truth."""
    import pwd  # not on Windows

    number = 12345
    if os.geteuid() or number in {user.pw_uid for user in pwd.getpwall()}:
        pytest.skip("only the superuser can become a user without an entry in the list of users")
    # The superuser compiles first, into an empty cache: by then all is imported, some of which Numba
    # puts off, and others may not be let in here.
    one = f"_machine_code.native(_machine_code.Text(*{tuple(ONE)}))\noptimizer.kernel_source()"
    first = PROBE.replace("optimizer.compile(p)", one).replace("print", "str")
    change = f"import numba.core.boxing\nos.setgid({number})\nos.setuid({number})\ndel os.environ['XDG_CACHE_HOME']\n"
    found = _run(
        f"{first}import os\n_machine_code.add = add\n{change}{PROBE}",
        XDG_CACHE_HOME=tmp_path,
    )
    assert (found["bits"], found["hits"]) == (expected, 0)


def test_relative_folders_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a home, that is taken instead, as the XDG specification has it."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _disk_cache.folder() == str(tmp_path / ".cache" / "anyoptim")
    monkeypatch.setenv("HOME", "home")
    assert _disk_cache.folder() is None


FOLDERS = {
    "darwin": ({"HOME": "{}"}, "Library/Caches/anyoptim"),
    "win32": ({"LOCALAPPDATA": "{}"}, "anyoptim"),
    "win32 without a profile": ({}, None),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_other_systems(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each keeps the caches of a user."""
    environment, wanted = FOLDERS[name]
    for variable in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value.format(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", name.split(maxsplit=1)[0])
        found = _disk_cache.folder()
    assert found == (None if wanted is None else str(tmp_path / wanted))


def _package(folder: Path) -> Path:
    """A copy of the package, as an installation's, and not the one that is tested."""
    shutil.copytree(Path(ao.__file__).parent, folder / "anyoptim", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.mark.product  # rare, and seconds of processes
def test_a_package_without_its_texts(tmp_path: Path, expected: str) -> None:
    """Of byte code alone: it compiles, keeps what it compiled, and finds it again."""
    package = _package(tmp_path / "package")
    assert compileall.compile_dir(package, quiet=1, legacy=True)
    for path in package.rglob("*.py"):
        path.unlink()
    for hits in (False, True):
        found = _run(PYTHONPATH=package, XDG_CACHE_HOME=tmp_path / "cache", PYTHONDONTWRITEBYTECODE="1")
        assert found["bits"] == expected
        assert found["file"].startswith(str(package))
        assert (found["hits"] == found["functions"]) == hits


@pytest.mark.product  # seconds of processes
def test_the_machine_code_depends_on_the_functions_it_calls(
    tmp_path: Path, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constants and functions of our own are in it: with other texts of these it is another's."""
    package = _package(tmp_path / "package")
    with open(package / "anyoptim" / "_machine" / "_array_headers.py", "a") as file:
        file.write("# changed\n")
    assert _run(PYTHONPATH=package, XDG_CACHE_HOME=warm)["hits"] == 0
    found = _run(PYTHONPATH=package, XDG_CACHE_HOME=warm)
    assert found["hits"] == found["functions"]
    read = SourceFileLoader.get_data
    digests = {_machine_code._surroundings.__wrapped__()}
    for name in _machine_code.OWN:
        monkeypatch.setattr(
            SourceFileLoader,
            "get_data",
            lambda self, path, n=name: read(self, path) + b"#" * (Path(path).stem == n.rpartition(".")[2]),
        )
        digests.add(_machine_code._surroundings.__wrapped__())
    assert len(digests) == 1 + len(_machine_code.OWN)
    assert None not in digests


def test_no_module_that_kernels_name_is_forgotten_there() -> None:
    """Nor one that such a module names. `_compiling` is there for how it compiles."""
    texts = [ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam()).kernel_source("compiled")]
    texts += [dropout_compiled.source(*of).text for of in (("flat", "float32", "y"), ("strided", "bfloat16", "x"))]
    package = Path(ao.__file__).parent
    called = [name for name in _machine_code.OWN if name != "_compiling"]
    texts += [(package / "_machine" / f"{name}.py").read_text() for name in called]
    froms = [node for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    named = {node.module for node in froms if node.module and node.module.startswith("anyoptim")}
    assert named == {f"anyoptim._machine.{name}" for name in called}


def test_where_our_own_functions_can_not_be_read_nothing_is_kept(
    private: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loader may give no data: the function is compiled all the same."""
    need_numba()
    monkeypatch.setattr(_machine_code, "_surroundings", lambda: None)
    assert _found() == 0
    assert not private.exists()


def test_machine_code_that_calls_what_is_not_there_is_refused(private: Path) -> None:
    """It would end the process."""
    need_numba()
    assert _found() == 0
    _machine_code._loaded.pop(ONE)
    _, _, code = _compiling.compiled(ONE).partition(b"\0")
    with pytest.raises(ImportError, match="machine code calls not_there, which this process does not have"):
        _machine_code.add(ONE, b"symbol not_there\0" + code)
    assert ONE not in _machine_code._loaded


@pytest.mark.product  # rare, and seconds of processes
def test_processes_that_start_at_once_on_an_empty_cache(tmp_path: Path, expected: str) -> None:
    """None sees half of another's file, all end with the same bits, and the next compiles nothing."""
    processes = [_start(XDG_CACHE_HOME=tmp_path) for _ in range(2)]
    assert [_finish(process)["bits"] for process in processes] == [expected] * 2
    found = _run(XDG_CACHE_HOME=tmp_path)
    assert (found["bits"], found["hits"]) == (expected, found["functions"])
    assert all(name.endswith(".kernel") for name in _kept(tmp_path))


# Generated code can be seen ------------------------------------------------------------------------------------------


def test_tracebacks_and_debuggers_see_the_text() -> None:
    """Which is no file."""
    text = "def fails(x):\n    y = x\n    return y / 0  # this line\n"
    call = _compiling.function("fails", text)
    linecache.checkcache()
    assert inspect.getsource(call) == text
    with pytest.raises(ZeroDivisionError) as caught:
        call(1)
    assert "return y / 0  # this line" in "".join(traceback.format_tb(caught.tb))
