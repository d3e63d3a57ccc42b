"""Checkpoints: what is saved comes back, whole or not at all, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

import anyoptim as ao
from anyoptim.checkpoint import _file, _tensors
from tests.support.internals import Tree, replacing
from tests.support.libraries import Library, numpy_dtype, same_bits

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def _trained() -> tuple[dict[str, Any], ao.Optimizer, ao.Dropout]:
    rng = np.random.default_rng(0)
    params: dict[str, Any] = {
        "W": rng.normal(size=(3, 4)).astype(np.float32),
        "b": [rng.normal(size=3), 0.5],
        "rests": None,
    }
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.LossScale(), ao.Adam(lr=0.1), ao.EMA(0.9))
    for _ in range(3):
        optimizer.update(params, {"W": params["W"], "b": [params["b"][0], 0.25], "rests": None})
    layer = ao.Dropout(0.25, seed=2**64 - 1)
    layer.forward(params["W"])
    return params, optimizer, layer


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with some of everything."""
    path = tmp_path_factory.mktemp("checkpoint") / "run.safetensors"
    params, optimizer, layer = _trained()
    ao.save(path, params=params, optimizer=optimizer, dropout=layer, extra={"epoch": 3, "seen": np.arange(5)})
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_come_back(lib: Library, dtype: str, tmp_path: Path) -> None:
    """They have the same bits, for each dtype that a library has and special values, in the user's containers."""
    values = np.array([[0.0, -0.0, 1.5], [np.inf, np.nan, -3e-4]]).astype(numpy_dtype(dtype))
    params = {"W": lib.asarray(values), "deep": [{"0-d": lib.asarray(values[0, 2])}, (lib.asarray(values[:0]), None)]}
    ao.save(tmp_path / "run", params=params)
    found = ao.load(tmp_path / "run", like=params).params
    assert type(found["W"]) is type(params["W"])
    for ours, theirs in (
        (found["W"], params["W"]),
        (found["deep"][0]["0-d"], params["deep"][0]["0-d"]),
        (found["deep"][1][0], params["deep"][1][0]),
    ):
        assert ours is not theirs
        assert ours.dtype == theirs.dtype
        a, b = lib.tonumpy(ours), lib.tonumpy(theirs)
        assert same_bits(np.asarray(a, np.complex128), np.asarray(b, np.complex128))
    assert found["deep"][1][1] is None


def test_any_reader_can_read_it(file: Path) -> None:
    """The tensors have the names that are promised, for safetensors' own reader."""
    params, optimizer, _ = _trained()
    with safetensors.safe_open(file, framework="np") as read:
        names = set(read.keys())
        assert {"params/W", "params/b.0", "params/b.1", "optimizer/stages/2/slots/m/W", "extra/seen"} <= names
        assert same_bits(read.get_tensor("params/W"), params["W"])
        assert optimizer.state is not None
        assert same_bits(read.get_tensor("optimizer/stages/2/slots/v/b.0"), optimizer.state.slots[2]["v"]["b"][0])


def test_all_of_it_comes_back(file: Path) -> None:
    """What another run would have done next is what this one does."""
    params, optimizer, layer = _trained()
    found = ao.load(file, like=params)
    other = ao.chain(ao.ClipGlobalNorm(2.0), ao.LossScale(), ao.Adam(), ao.EMA(0.5))
    assert found.optimizer is not None
    other.load_state_dict(found.optimizer, found.params)
    drops = ao.Dropout(seed=0)
    drops.load_state_dict(found.dropout)
    assert found.extra["epoch"] == 3
    assert found.extra["seen"].tolist() == [0, 1, 2, 3, 4]
    grads = {"W": np.ones((3, 4), np.float32), "b": [np.ones(3), 1.0], "rests": None}
    optimizer.update(params, grads)
    other.update(found.params, grads)
    assert same_bits(params["W"], found.params["W"])
    assert type(found.params["b"][1]) is float
    assert params["b"][1] == found.params["b"][1]
    assert repr(other) == repr(optimizer)
    x = np.ones(100)
    assert same_bits(layer.forward(x), drops.forward(x))


def test_layers_come_back(tmp_path: Path) -> None:
    """Their states are equal to what was saved, whatever arguments a layer has, and another layer refuses them."""
    shape: Any = (None, 1, np.int64(3))
    layers = [
        ao.Dropout(noise_shape=shape, seed=1),
        ao.SpatialDropout(axis=-1, inverted=True, seed=2),
        ao.Zoneout(seed=3),
    ]
    ao.save(tmp_path / "run", dropout=layers)
    found = ao.load(tmp_path / "run").dropout
    assert repr(found) == repr([layer.state_dict() for layer in layers])
    for layer, state in zip(layers, found, strict=True):
        layer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"state\['axis'\] is -1; wanted 1, as this layer has it"):
        ao.SpatialDropout(inverted=True).load_state_dict(found[1])


def test_without_like_there_are_numpy_arrays_by_path(file: Path) -> None:
    """A dict of all parameters."""
    params, _, _ = _trained()
    found = ao.load(file).params
    assert list(found) == ["W", "b.0", "b.1", "rests"]
    assert same_bits(found["b.0"], params["b"][0])
    assert found["rests"] is None


PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float):
        return (isinstance(b, float) and np.float64(a).tobytes() == np.float64(b).tobytes()) or (a != a and b != b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=25)
@given(extra=PLAIN)
def test_anything_plain_comes_back(extra: Any, tmp_path: Path) -> None:
    """Any nest of plain values comes back, whatever its keys are called."""
    ao.save(tmp_path / "run", extra=extra)
    assert _equal(ao.load(tmp_path / "run").extra, extra)


@given(
    a=hnp.arrays(
        st.sampled_from(["f2", "f4", "f8", ">f8", "c8", ">c16", "i1", "i8", ">u4", "?"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    order=st.sampled_from("CF"),
)
def test_any_array_comes_back(a: Any, order: str, tmp_path: Path) -> None:
    """An array comes back, of any dtype, shape, memory order and byte order."""
    a = np.asarray(a, order=order)  # type: ignore[call-overload]
    ao.save(tmp_path / "run", extra=[a, {"a/b": a[..., None], "a": {"b": a}}])
    one, more = ao.load(tmp_path / "run").extra
    for found, wanted in ((one, a), (more["a/b"], a[..., None]), (more["a"]["b"], a)):
        assert same_bits(found, wanted.astype(wanted.dtype.newbyteorder("=")))


KEY = (
    st.text(max_size=5)
    | st.text("$.a/'\\é\U0001f600\0", max_size=3)
    | st.sampled_from(["$tensor", "$$tensor", "$complex", "__metadata__"])
)
"""Keys that mean something in the file, and any others."""

NEST: Any = st.recursive(
    st.integers(0, 9), lambda of: st.dictionaries(KEY, of, max_size=3) | st.lists(of, max_size=2), max_leaves=5
)


def _filled(nest: Any, of: Callable[[int], Any]) -> Any:
    """The nest with something else for each of its numbers."""
    if isinstance(nest, dict):
        return {key: _filled(inner, of) for key, inner in nest.items()}
    return [_filled(inner, of) for inner in nest] if isinstance(nest, list) else of(nest)


@settings(max_examples=60)
@given(nest=st.dictionaries(KEY, NEST, min_size=1, max_size=3))
def test_any_keys_come_back(nest: Any, tmp_path: Path) -> None:
    """Keys of parameters, of an optimizer's state, of layers and of others come back, by `save` or `state_dict`."""
    params = _filled(nest, lambda n: None if n == 9 else np.full(2, float(n)))
    optimizer, other = ao.Momentum(), ao.Momentum()
    try:
        optimizer.update(params, params)
    except ValueError as error:  # two paths alike
        assert "have the same path" in str(error)  # noqa: PT017 - others are none of this test's
        return
    layers = {key: ao.Dropout(seed=n) for n, key in enumerate(nest)}
    ao.save(tmp_path / "run", params=params, optimizer=optimizer, dropout=layers, extra=[nest, params])
    found, plain = ao.load(tmp_path / "run", like=params), ao.load(tmp_path / "run").params
    assert found.optimizer is not None
    assert repr(found.params) == repr(params)
    assert repr(found.extra) == repr([nest, params])
    assert list(plain) == Tree("params", params).paths
    assert repr(list(plain.values())) == repr(Tree("params", params).leaves)
    assert list(found.dropout) == list(layers)
    assert [found.dropout[key]["key"] for key in nest] == [layer.state_dict()["key"] for layer in layers.values()]
    for state in (found.optimizer, optimizer.state_dict()):
        assert repr(state) == repr(optimizer.state_dict())
        assert other.load_state_dict(state, params) == []
        assert repr(other.state_dict()) == repr(optimizer.state_dict())


SURROGATES: dict[str, tuple[dict[str, Any], str]] = {
    "a key": ({"extra": {"a": {"\ud83d\ude00": 1}}}, r"extra\['a'\] has the key '\\ud83d\\ude00'; wanted text"),
    "a text": ({"extra": ["\ud83d\ude00"]}, r"extra\[0\] is '\\ud83d\\ude00'; wanted text"),
    "an array's key": ({"extra": {"\ud800": np.ones(1)}}, r"extra\['\\ud800'\] has a surrogate in its key"),
    "a parameter's key": ({"params": {"\ud800": np.ones(1)}}, r"params\['\\ud800'\] has a surrogate in its key"),
}


@pytest.mark.parametrize("what", SURROGATES)
def test_surrogates_that_would_not_come_back_are_refused_by_name(what: str, tmp_path: Path) -> None:
    """Two become one character, and no tensor's name has any; those of a file name in a text come back."""
    given, message = SURROGATES[what]
    with pytest.raises(ValueError, match=message):
        ao.save(tmp_path / "run", **given)
    assert not os.listdir(tmp_path)
    ao.save(tmp_path / "run", extra={"a\udcff": "\udcff"})
    assert ao.load(tmp_path / "run").extra == {"a\udcff": "\udcff"}


class _Loop:
    """Values that a checkpoint can't hold."""


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an object": ({"extra": {"a": [_Loop()]}}, r"extra\['a'\]\[0\] is a .*_Loop"),
    "a number as key": ({"extra": {1: 2}}, "extra has the key 1; wanted strings"),
    "objects in an array": ({"extra": np.array([None])}, "extra has dtype object"),
    "text in an array": ({"extra": np.array(["a"])}, "extra has dtype"),
    "a cycle": ({"extra": CYCLE}, "extra is nested too deeply"),
    "objects as parameters": ({"params": {"W": np.array([None])}}, r"params\['W'\] has dtype object"),
    "two paths alike": ({"params": {"a.b": 1.0, "a": {"b": 1.0}}}, r"params\['a'\]\['b'\] and params\['a.b'\] have"),
    "no optimizer": ({"optimizer": 3}, "optimizer is a int; wanted an Optimizer"),
    "no layer": ({"dropout": {"a": [3]}}, r"dropout\['a'\]\[0\] is a int; wanted a layer"),
    "a masked array": ({"extra": np.ma.masked_array([1.0], [True])}, "extra is a numpy MaskedArray"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_saved_is_refused_by_name(what: str, tmp_path: Path) -> None:
    """The file that was there stays as it was, with nothing beside it."""
    given, message = REFUSED[what]
    (tmp_path / "run").write_text("old")
    with pytest.raises((TypeError, ValueError), match=message):
        ao.save(tmp_path / "run", **given)
    assert (tmp_path / "run").read_text() == "old"
    assert os.listdir(tmp_path) == ["run"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays whichever part of writing fails, and the new one is taken away."""
    path = tmp_path / "run"
    ao.save(path, extra=1)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    for name in ("fsync", "replace", "chmod"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no space left"):
                ao.save(path, extra=2)
        assert ao.load(path).extra == 1
        assert os.listdir(tmp_path) == ["run"]
    for folder in (tmp_path / "nowhere", path / "in a file"):
        with pytest.raises(FileNotFoundError) as caught:
            ao.save(folder / "run", extra=2)
        assert str(caught.value) == f"{folder / 'run'} can't be written: there is no folder {os.path.realpath(folder)}"


def test_the_new_file_is_on_the_disk_before_it_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced, then renamed, and then the folder is synced."""
    calls: list[str] = []

    def seen(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*of: Any) -> Any:
            calls.append(what)
            return call(*of)

        return told

    monkeypatch.setattr(os, "fsync", seen("sync", os.fsync))
    monkeypatch.setattr(os, "replace", seen("rename", os.replace))
    ao.save(tmp_path / "run", extra=1)
    assert calls == ["sync", "rename", "sync"]


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    """A device or a folder of that name is refused, and stays; a file keeps its permissions."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="is no regular file"):
            ao.save(tmp_path / name, extra=1)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
    ao.save(tmp_path / "run", extra=1)
    (tmp_path / "run").chmod(0o600)
    ao.save(tmp_path / "run", extra=2)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o600


def test_arrays_that_change_meanwhile_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread that trains on spoils nothing: the old file stays."""
    params, path = {"W": np.ones(5)}, tmp_path / "run"
    ao.save(path, params=params)
    sync = os.fsync

    def meanwhile(number: int) -> None:
        params["W"] += 1
        sync(number)

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(RuntimeError, match="arrays changed while they were saved"):
        ao.save(path, params=params)
    found = ao.load(path, like=params).params
    assert found["W"].tolist() == [1.0] * 5
    assert os.listdir(tmp_path) == ["run"]


def test_numbers_of_numpy_come_back_as_numbers(tmp_path: Path) -> None:
    """A NumPy scalar of any kind comes back as a Python number or bool."""
    ao.save(tmp_path / "run", extra=[np.float64(0.5), np.float32(0.25), np.int8(-3), np.True_])
    found = ao.load(tmp_path / "run").extra
    assert found == [0.5, 0.25, -3, True]
    assert list(map(type, found)) == [float, float, int, bool]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What it points to is replaced; and the file can be read by those whom the umask lets."""
    (tmp_path / "there").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "there" / "real")
    ao.save(tmp_path / "run", extra=1)
    assert (tmp_path / "run").is_symlink()
    assert ao.load(tmp_path / "there" / "real").extra == 1
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "there" / "real").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("length", [1, 255])
def test_names_of_any_length(length: int, tmp_path: Path) -> None:
    """What a folder can hold, it can hold while it is written, too."""
    for n in range(2):
        ao.save(tmp_path / ("n" * length), extra=n)
    assert ao.load(tmp_path / ("n" * length)).extra == 1
    assert os.listdir(tmp_path) == ["n" * length]


def test_headers_that_can_not_be_read_again_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header too large is refused before the old file is replaced. The limit is safetensors' own."""
    monkeypatch.setattr(_file, "LARGEST", 400)
    ao.save(tmp_path / "run", extra=1)
    with pytest.raises(ValueError, match=r"all but the arrays takes .* bytes; wanted 400 at most"):
        ao.save(tmp_path / "run", extra="a" * 400)
    assert ao.load(tmp_path / "run").extra == 1
    assert os.listdir(tmp_path) == ["run"]


kills = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are tested where processes fork and files are locked")


@kills
def test_a_killed_save_leaves_a_whole_file(tmp_path: Path) -> None:
    """80 kills at random moments, one in ten amid a save: then there is a whole state, and none older than before.

    What they leave beside it is the last one's alone, and the next save removes it.
    """
    command = [sys.executable, "-m", "tests.support.checkpoint_kills", str(tmp_path), "80"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 8  # else the kills came where nothing was being written
    ao.save(tmp_path / "other", extra=1)
    assert sorted(os.listdir(tmp_path)) == ["other", "run.safetensors"]


@kills
def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    """A file that is still being written stays, and so does one of another's, whatever it is called."""
    begun, left = tmp_path / "begun", [".anyoptim-.tmp", ".anyoptim-12345678-1.tmp", ".tmp", "anyoptim-1.tmp"]
    for name in left:
        (tmp_path / name).write_text("")
    with replacing(begun) as file:
        file.write(b"first")
        command = [sys.executable, "-c", "import sys, anyoptim; anyoptim.save(sys.argv[1], extra=1)"]
        subprocess.run([*command, tmp_path / "run"], check=True)
        ao.save(tmp_path / "run", extra=2)
        assert len(os.listdir(tmp_path)) == len(left) + 2
    assert begun.read_bytes() == b"first"
    assert {*os.listdir(tmp_path)} == {*left, "begun", "run"}


def test_saves_beside_each_other_take_nothing_from_each_other(tmp_path: Path) -> None:
    """Each removes what it can lock, and a file can be found before it is locked: threads that save all the time."""

    def work(k: int) -> None:
        for n in range(100):
            with replacing(tmp_path / f"run{k % 2}") as file:
                file.write(bytes([n]))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert sorted(os.listdir(tmp_path)) == ["run0", "run1"]
    assert {(tmp_path / f"run{k}").read_bytes() for k in range(2)} == {bytes([99])}


def test_damaged_files_are_refused(file: Path, tmp_path: Path) -> None:
    """2,000, 400 each with bits flipped, bytes cut off, put in, moved: each is refused, or loads what was saved."""
    wanted, content = ao.load(file), file.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "run"
    refused = same = 0
    for case in range(2_000):
        damaged = bytearray(content)
        place = int(rng.integers(len(damaged)))
        match case % 5:
            case 0:
                damaged[place] ^= 1 << int(rng.integers(8))
            case 1:
                del damaged[place:]
            case 2:
                damaged[place:place] = rng.bytes(int(rng.integers(1, 9)))
            case 3:
                del damaged[place : place + int(rng.integers(1, 9))]
            case 4:
                damaged[place : place + 8] = rng.bytes(8)
        path.write_bytes(damaged)
        try:
            found = ao.load(path)
        except ValueError as error:
            refused += str(path) in str(error)
        else:
            assert repr(found) == repr(wanted), case
            same += 1
    assert refused + same == 2_000  # each names the file
    assert same < 20


@pytest.mark.parametrize(("was", "now"), [(b'"shape":[3,4]', b'"shape":[4,3]'), (b'"dtype":"F64"', b'"dtype":"I64"')])
def test_the_checksum_is_of_shapes_and_dtypes_too(was: bytes, now: bytes, file: Path, tmp_path: Path) -> None:
    """A header that says something else, and which safetensors takes, of the same elements."""
    content = file.read_bytes()
    assert was in content
    (tmp_path / "run").write_bytes(content.replace(was, now, 1))
    safetensors.deserialize((tmp_path / "run").read_bytes())  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="its checksum is another"):
        ao.load(tmp_path / "run")


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "a pipe": lambda path: os.mkfifo(path),  # noqa: PLW0108 - which is looked for on Windows in vain
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_what_is_no_file_is_refused_at_once(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, without waiting for anybody, and without opening it; nor is it read if it took a file's place."""
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    NO_FILES[what](Path("run"))
    for use in (ao.load, lambda path: ao.save(path, extra=1)):
        with pytest.raises(OSError, match="run is no regular file; wanted the path of one"):
            use("run")
    found, regular = os.stat, os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda path, **more: regular if path == "run" else found(path, **more))
    with pytest.raises(OSError, match="run"):
        ao.load("run")


@given(content=st.binary(max_size=300))
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    """Any bytes, with and without a length before them that promises a header."""
    for prefix in (b"", len(content).to_bytes(8, "little"), (2**63).to_bytes(8, "little")):
        (tmp_path / "run").write_bytes(prefix + content)
        with pytest.raises(ValueError, match="run"):
            ao.load(tmp_path / "run")


def _forged(path: Path, change: Callable[[dict[str, Any]], Any], tensors: dict[str, Any] | None = None) -> None:
    """A file whose checksum is right, and whose document is not."""
    document = {"version": 1, "params": None, "optimizer": None, "dropout": None, "extra": None}
    text = change(document)
    text = json.dumps(document) if text is None else text
    arrays = {"t": np.zeros((2, 3))} if tensors is None else tensors
    digest = _file.digest(text, {name: _tensors.stored(name, a)[0] for name, a in arrays.items()})
    save_file(arrays, path, metadata={"anyoptim": text, "sha256": digest})


def _peak(path: Path) -> int:
    """The most memory that a load takes, which is refused with the file's name or not at all."""
    tracemalloc.start()
    try:
        ao.load(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - whether it is refused is not what is asked
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


NAMES = st.sampled_from("tuv")
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 12, 2**31, 2**62, 2**64, 1.5, "2", None])
OFFSETS = st.sampled_from([0, 2, 4, 8, 12, 2**31, 2**63, 2**64])
CHANGES: Any = {
    "dtype": st.sampled_from([*_tensors.DTYPES, "F4", "C64", ""]),
    "shape": st.lists(NUMBERS, max_size=4),
    "data_offsets": st.lists(OFFSETS, min_size=2, max_size=2) | st.lists(OFFSETS),
}


@st.composite
def contents(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """What the header of a safetensors file says of tensors, and their bytes: half of them as they should be."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(NAMES, unique=True)):
        n = draw(st.integers(0, 4))
        header[name] = {"dtype": "BF16", "shape": [2, n], "data_offsets": [end, end + 4 * n]}
        end += 4 * n
    if draw(st.booleans()) and header:
        header[draw(NAMES)] = {**header[min(header)], **draw(st.fixed_dictionaries({}, optional=CHANGES))}
        end += draw(st.sampled_from([0, 0, -1, 1, 100]))
    return header, bytes(max(0, end))


REFERENCES: Any = st.recursive(
    st.builds(lambda name, c: {"$tensor": name, "$complex": c}, NAMES | st.none() | st.integers(), st.booleans()),
    lambda of: st.lists(of) | st.dictionaries(st.text(max_size=2), of),
    max_leaves=10,
)
"""Documents that name tensors in several places."""


@given(content=contents(), extra=REFERENCES, times=st.sampled_from([1, 1000]), length=st.none() | st.none() | OFFSETS)
def test_memory_is_asked_for_by_the_size_of_the_file(
    content: tuple[dict[str, Any], bytes], extra: Any, times: int, length: int | None, tmp_path: Path
) -> None:
    """Whatever a file says is in it, with the right checksum where there can be one."""
    header, data = content
    text = json.dumps({"version": 1, "params": None, "optimizer": None, "dropout": None, "extra": [extra] * times})

    def write(digest: str) -> bytes:
        told = json.dumps({"__metadata__": {"anyoptim": text, "sha256": digest}, **header}).encode()
        size = len(told) if length is None else length % 2**64
        (tmp_path / "run").write_bytes(size.to_bytes(8, "little") + told + data)
        return (tmp_path / "run").read_bytes()

    with suppress(safetensors.SafetensorError, ValueError):
        found = {
            name: _tensors.Tensor(of["dtype"], tuple(of["shape"]), np.frombuffer(of["data"], np.uint8))
            for name, of in safetensors.deserialize(write("0" * 64))  # type: ignore[no-untyped-call]
        }
        write(_file.digest(text, found))
    assert _peak(tmp_path / "run") < 100_000 + 64 * (tmp_path / "run").stat().st_size


def test_a_tensor_that_is_named_ten_thousand_times(tmp_path: Path) -> None:
    """A tensor is made into one array at most, and bfloat16 into twice as many bytes."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="has NumPy's bfloat16")
    one = {"$tensor": "t", "$complex": False}
    for extra in (one, [one] * 10_000):
        _forged(tmp_path / "run", _put(extra=extra), {"t": np.zeros(700_000, ml_dtypes.bfloat16)})
        assert _peak(tmp_path / "run") < 4 * (tmp_path / "run").stat().st_size


def test_a_long_file_of_something_else_is_not_read(tmp_path: Path) -> None:
    """What a safetensors file begins with is looked at first: of a terabyte of zeros, and of a zip file."""
    with open(tmp_path / "run", "wb") as file:
        file.truncate(2**40)
    assert _peak(tmp_path / "run") < 10**6
    with open(tmp_path / "run", "r+b") as file:
        file.write(b"PK\3\4" * 10)
    assert _peak(tmp_path / "run") < 10**6


def _put(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(entries)


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no JSON": lambda document: "{",
    "a list": lambda document: "[]",
    "a deep nest": lambda document: "[" * 100_000 + "]" * 100_000,
    "a long number": lambda document: '{"version": ' + "1" * 10_000 + "}",
    "another version": _put(version=2),
    "an entry more": _put(more=1),
    "a tensor that is not there": _put(extra={"$tensor": "u", "$complex": False}),
    "a tensor by a list": _put(extra={"$tensor": ["t"], "$complex": False}),
    "half a tensor": _put(extra={"$tensor": "t"}),
    "a tensor twice": _put(extra=[{"$tensor": "t", "$complex": False}] * 2),
    "a tensor of two": _put(
        params={"W": {"$tensor": "t", "$complex": False}}, extra={"$tensor": "t", "$complex": False}
    ),
    "complex of threes": _put(extra={"$tensor": "t", "$complex": True}),
    "numbers as parameters": _put(params={"W": 3}),
    "a list of parameters": _put(params=[1]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_forged_files_are_refused(what: str, tmp_path: Path) -> None:
    """A forged file is refused even with the right checksum, in words that name it."""
    _forged(tmp_path / "run", HOSTILE[what])
    with pytest.raises(ValueError, match="run"):
        ao.load(tmp_path / "run")


def test_a_forged_file_of_nothing_is_read(tmp_path: Path) -> None:
    """An empty document is read, so that those above are refused for what they say."""
    _forged(tmp_path / "run", lambda document: None)
    assert ao.load(tmp_path / "run") == (None, None, None, None)


def test_others_files_are_refused(tmp_path: Path) -> None:
    """A safetensors file of somebody else, and one whose header promises more than there is."""
    save_file({"W": np.ones(3)}, tmp_path / "run")
    with pytest.raises(ValueError, match="no checkpoint of anyoptim"):
        ao.load(tmp_path / "run")
    header = json.dumps({"W": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "run").write_bytes(len(header).to_bytes(8, "little") + header)
    tracemalloc.start()
    with pytest.raises(ValueError, match="no safetensors file"):
        ao.load(tmp_path / "run")
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    with pytest.raises(FileNotFoundError):
        ao.load(tmp_path / "nothing")


def test_other_parameters_are_named(file: Path) -> None:
    """The error names all that differs from `like`."""
    with pytest.raises(ValueError, match="has other parameters") as told:
        ao.load(file, like={"W": np.ones((4, 3), np.float32), "b": [np.ones(3, complex), 0.5], "new": 1.0})
    assert "like['W'] is of shape (4, 3), in the file of shape (3, 4)" in str(told.value)
    assert "like['b'][0] has dtype complex128, in the file float64" in str(told.value)
    assert "like['new'] is not in the file" in str(told.value)
    assert "'rests' is in the file only" in str(told.value)


INTEGERS = ("int64", "int32", "int8", "uint8", "bool")
LACKING = {"jax": {"int64"}}
"""The dtypes among these that a library turns into others."""


@pytest.mark.parametrize("integer", INTEGERS)
def test_integers_among_the_parameters_come_back(lib: Library, integer: str, tmp_path: Path) -> None:
    """The bits of NumPy's, in each library; to another dtype they are not converted."""
    if integer in LACKING.get(lib.name, ()):
        pytest.skip(f"{lib.name} has no {integer}")
    values = np.array([[0, 1], [3, 100]]).astype(integer)
    params = {"W": lib.array([1.0, 2.0]), "seen": lib.asarray(values), "count": lib.asarray(values[1, 0])}
    ao.save(tmp_path / "run", params=params)
    found = ao.load(tmp_path / "run", like=params).params
    for key, p in params.items():
        assert type(found[key]) is type(p)
        assert found[key].dtype == p.dtype
        assert same_bits(lib.tonumpy(found[key]), lib.tonumpy(p))
    with pytest.raises(ValueError, match=rf"like\['seen'\] has dtype float32, in the file {integer}"):
        ao.load(tmp_path / "run", like={**params, "seen": lib.array([[0, 1], [2, 3]])})


def test_a_module_with_batch_normalisation_comes_back(need: Callable[[str], Library], tmp_path: Path) -> None:
    """Its `state_dict`, with the batches that it counted, which are integers, as torch's own copy has it."""
    need("torch")
    import torch

    model, other = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)) for _ in range(2))
    model(torch.ones(5, 3))
    ao.save(tmp_path / "run", params=model.state_dict())
    other.load_state_dict(ao.load(tmp_path / "run", like=other.state_dict()).params)
    wanted, found = model.state_dict(), other.state_dict()
    assert wanted["1.num_batches_tracked"] == 1
    assert all(found[key].dtype == p.dtype and torch.equal(found[key], p) for key, p in wanted.items())


def test_tied_parameters_stay_tied(tmp_path: Path) -> None:
    """One array under two names comes back as one; where the file has two, it is refused."""
    w = np.ones(3)
    ao.save(tmp_path / "run", params={"a": w, "b": w})
    found = ao.load(tmp_path / "run", like={"a": w, "b": w}).params
    assert found["a"] is found["b"]
    ao.save(tmp_path / "run", params={"a": w, "b": 2 * w})
    with pytest.raises(ValueError, match=r"like\['a'\] and like\['b'\] are one array, in the file two"):
        ao.load(tmp_path / "run", like={"a": w, "b": w})


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The error names the package to install, and says where no parameters were saved."""
    ao.save(tmp_path / "run", extra=hashlib.sha256(b"").hexdigest())
    with pytest.raises(ValueError, match="has no parameters; wanted like=None"):
        ao.load(tmp_path / "run", like={"W": 1.0})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"pip install safetensors"):
        ao.save(tmp_path / "run", extra=2)
    with pytest.raises(ImportError, match=r"pip install safetensors"):
        ao.load(tmp_path / "run")
