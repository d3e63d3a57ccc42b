"""Checkpoints: what is saved comes back, whole or not at all, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

import anyoptim as ao
from tests.libraries import Library, numpy_dtype, same_bits

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
    """Bit for bit, of each dtype that a library has, with what is special about numbers; in its own containers."""
    if dtype not in lib.dtypes:
        pytest.skip(f"{lib.name} has no {dtype}")
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


@given(extra=PLAIN)
def test_anything_plain_comes_back(extra: Any, tmp_path: Path) -> None:
    """Any nest of plain values, whatever its keys are called."""
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
    """Of any dtype, shape, memory and byte order."""
    a = np.asarray(a, order=order)  # type: ignore[call-overload]
    ao.save(tmp_path / "run", extra=[a, {"a/b": a[..., None], "a": {"b": a}}])
    one, more = ao.load(tmp_path / "run").extra
    for found, wanted in ((one, a), (more["a/b"], a[..., None]), (more["a"]["b"], a)):
        assert same_bits(found, wanted.astype(wanted.dtype.newbyteorder("=")))


class _Loop:
    """What a checkpoint can't hold."""


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an object": ({"extra": {"a": [_Loop()]}}, r"extra\['a'\]\[0\] is a .*_Loop"),
    "a number as key": ({"extra": {1: 2}}, "extra has the key 1; wanted strings"),
    "objects in an array": ({"extra": np.array([None])}, "extra has dtype object"),
    "text in an array": ({"extra": np.array(["a"])}, "extra has dtype"),
    "a cycle": ({"extra": CYCLE}, "extra is nested too deeply"),
    "integers as parameters": ({"params": {"W": np.arange(3)}}, r"params\['W'\] has dtype int64"),
    "two paths alike": ({"params": {"a.b": 1.0, "a": {"b": 1.0}}}, r"params\['a'\]\['b'\] and params\['a.b'\] have"),
    "no optimizer": ({"optimizer": 3}, "optimizer is a int; wanted an Optimizer"),
    "no layer": ({"dropout": {"a": [3]}}, r"dropout\['a'\]\[0\] is a int; wanted a layer"),
    "a masked array": ({"extra": np.ma.masked_array([1.0], [True])}, "extra is a numpy MaskedArray"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_saved_is_refused_by_name(what: str, tmp_path: Path) -> None:
    """And the file that was there stays as it was, with nothing beside it."""
    given, message = REFUSED[what]
    (tmp_path / "run").write_text("old")
    with pytest.raises((TypeError, ValueError), match=message):
        ao.save(tmp_path / "run", **given)
    assert (tmp_path / "run").read_text() == "old"
    assert os.listdir(tmp_path) == ["run"]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever part of writing fails; what was begun is taken away."""
    path = tmp_path / "run"
    ao.save(path, extra=1)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    for owner, name in ((os, "fsync"), (Path, "replace"), (safetensors, "serialize_file")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(OSError, match="no space left"):
                ao.save(path, extra=2)
        assert ao.load(path).extra == 1
        assert os.listdir(tmp_path) == ["run"]
    with pytest.raises(OSError, match="nowhere"):
        ao.save(tmp_path / "nowhere" / "run", extra=2)


def test_the_new_file_is_on_the_disk_before_it_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Synced, renamed, and the folder synced: in this order."""
    calls: list[str] = []

    def seen(what: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*of: Any) -> Any:
            calls.append(what)
            return call(*of)

        return told

    monkeypatch.setattr(os, "fsync", seen("sync", os.fsync))
    monkeypatch.setattr(Path, "replace", seen("rename", Path.replace))
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
    write = safetensors.serialize_file

    def meanwhile(*of: Any, **more: Any) -> None:
        params["W"] += 1
        write(*of, **more)

    monkeypatch.setattr(safetensors, "serialize_file", meanwhile)
    with pytest.raises(RuntimeError, match="arrays changed while they were saved"):
        ao.save(path, params=params)
    found = ao.load(path, like=params).params
    assert found["W"].tolist() == [1.0] * 5
    assert os.listdir(tmp_path) == ["run"]


def test_numbers_of_numpy_come_back_as_numbers(tmp_path: Path) -> None:
    """Whatever their kind."""
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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are tested where processes fork")
def test_a_killed_save_leaves_a_whole_file(tmp_path: Path) -> None:
    """200 kills at random moments: after each there is a whole state to load, and never an older one than before."""
    command = [sys.executable, "-m", "tests.checkpoint_kills", str(tmp_path), "200"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(done.stdout) >= 20  # else the kills came where nothing was being written


def test_damaged_files_are_refused(file: Path, tmp_path: Path) -> None:
    """10,000 of them, with bits flipped, bytes cut off, put in, moved: each is refused, or loads what was saved."""
    wanted, content = ao.load(file), file.read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "run"
    refused = same = 0
    for case in range(10_000):
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
    assert refused + same == 10_000  # each names the file
    assert same < 100


@pytest.mark.parametrize(("was", "now"), [(b'"shape":[3,4]', b'"shape":[4,3]'), (b'"dtype":"F64"', b'"dtype":"I64"')])
def test_the_checksum_is_of_shapes_and_dtypes_too(was: bytes, now: bytes, file: Path, tmp_path: Path) -> None:
    """A header that says something else, and which safetensors takes, of the same elements."""
    content = file.read_bytes()
    assert was in content
    (tmp_path / "run").write_bytes(content.replace(was, now, 1))
    safetensors.deserialize((tmp_path / "run").read_bytes())  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="its checksum is another"):
        ao.load(tmp_path / "run")


@given(content=st.binary(max_size=300))
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    """Any bytes, with and without a length before them that promises a header."""
    for prefix in (b"", len(content).to_bytes(8, "little"), (2**63).to_bytes(8, "little")):
        (tmp_path / "run").write_bytes(prefix + content)
        with pytest.raises(ValueError, match="run"):
            ao.load(tmp_path / "run")


def _forged(path: Path, change: Callable[[dict[str, Any]], Any], tensors: dict[str, Any] | None = None) -> None:
    """A file whose checksum is right, and whose document is not."""
    from anyoptim import _checkpoint
    from anyoptim._tensors import stored

    document = {"version": 1, "params": None, "optimizer": None, "dropout": None, "extra": None}
    text = change(document)
    text = json.dumps(document) if text is None else text
    arrays = {"t": np.zeros((2, 3))} if tensors is None else tensors
    digest = _checkpoint._digest(text, {name: stored(name, a)[0] for name, a in arrays.items()})
    save_file(arrays, path, metadata={"anyoptim": text, "sha256": digest})


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
    "complex of threes": _put(extra={"$tensor": "t", "$complex": True}),
    "numbers as parameters": _put(params={"W": 3}),
    "a list of parameters": _put(params=[1]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_forged_files_are_refused(what: str, tmp_path: Path) -> None:
    """With the right checksum, too, in words that name the file."""
    _forged(tmp_path / "run", HOSTILE[what])
    with pytest.raises(ValueError, match="run"):
        ao.load(tmp_path / "run")


def test_a_forged_file_of_nothing_is_read(tmp_path: Path) -> None:
    """So that the ones above are refused for what they say."""
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
    """All that differs from `like`."""
    with pytest.raises(ValueError, match="has other parameters") as told:
        ao.load(file, like={"W": np.ones((4, 3), np.float32), "b": [np.ones(3, complex), 0.5], "new": 1.0})
    assert "like['W'] is of shape (4, 3), in the file of shape (3, 4)" in str(told.value)
    assert "like['b'][0] has dtype complex128, in the file float64" in str(told.value)
    assert "like['new'] is not in the file" in str(told.value)
    assert "'rests' is in the file only" in str(told.value)


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
    """The package, by the extra that brings it; parameters that were not saved."""
    ao.save(tmp_path / "run", extra=hashlib.sha256(b"").hexdigest())
    with pytest.raises(ValueError, match="has no parameters; wanted like=None"):
        ao.load(tmp_path / "run", like={"W": 1.0})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"anyoptim\[checkpoint\]"):
        ao.save(tmp_path / "run", extra=2)
    with pytest.raises(ImportError, match=r"anyoptim\[checkpoint\]"):
        ao.load(tmp_path / "run")
