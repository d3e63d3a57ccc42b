"""Philox: the published known answers, and the same words everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyoptim.random import bernoulli, bits, normal, philox4x32, uniform
from anyoptim.random._philox import choices
from tests.reference.philox import choice, philox, word
from tests.support.counters import BAD, U64
from tests.support.engines import dropout_on, two_threads
from tests.support.libraries import Library

pytestmark = pytest.mark.usefixtures("quickly")

# From the file kat_vectors of Random123, the authors' own implementation: philox4x32 with 10 rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _hex(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("known", KNOWN, ids=["zeros", "ones", "pi"])
def test_known_answers(lib: Library, known: tuple[str, str, str]) -> None:
    """The three published vectors, on every library, in its own integers."""
    counter, key, expected = map(_hex, known)
    assert philox(counter, key) == expected
    integer = bits((1,), 0, like=lib.array([0.0])).dtype
    name = str(integer).rpartition(".")[2]
    arrays = [lib.asarray(np.array([c, c], name)) for c in counter]
    result = [lib.tonumpy(a).tolist() for a in philox4x32(arrays, (key[0], key[1]))]
    assert result == [[e, e] for e in expected]
    if lib.name != "dask":  # A NumPy scalar's product warns where it wraps; in Dask's threads nobody can turn that off.
        alone = philox4x32([lib.asarray(np.array(c, name)) for c in counter], (key[0], key[1]))
        assert [int(lib.tonumpy(a)) for a in alone] == expected


@pytest.mark.parametrize("n", [40_959, 40_961, 3 * 40_960 + 5, 700_000])
@pytest.mark.parametrize("offset", [0, 3, 2**34 - 50_001])
def test_blocks_are_the_whole(n: int, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's words come in blocks of counters, which threads may share: as all at once, and as Python's integers."""
    two_threads(monkeypatch)
    near, drawn = np.empty(0), {}
    for only in (None, "portable"):
        dropout_on(only, monkeypatch)
        drawn[only] = bits((n,), 5, 6, offset, like=near), bernoulli(0.3, (n,), 5, 6, 2 * offset, like=near)
    for ours, whole in zip(drawn[None], drawn["portable"], strict=True):
        assert (ours == whole).all()
    for i in (0, 1, n // 2, n - 2, n - 1):
        assert int(drawn[None][0][i]) == word(offset + i, 5, 6)
        assert bool(drawn[None][1][i]) == (choice(2 * offset + i, 5, 6) < round(0.3 * 2**32))


def test_choices(lib: Library) -> None:
    """All of their bits, from any one on."""
    for offset in (0, 3, 2**64 - 5):
        drawn = lib.tonumpy(choices((19,), 1, 2, offset, None, lib.array([0.0])))
        assert [int(c) for c in drawn] == [choice(offset + i, 1, 2) for i in range(19)]


def test_truth_values_of_shards_beyond_32_bits_of_counters(lib: Library) -> None:
    """Where the low word of the counter rolls over, within a row and between rows."""
    like, whole = lib.array([0.0]), (3, 2**34 + 3)
    found = lib.tonumpy(bernoulli(0.5, (3, 9), 1, 2, (0, 2**34 - 6), within=whole, like=like))
    expected = [[choice(r * whole[1] + 2**34 - 6 + k, 1, 2) < 2**31 for k in range(9)] for r in range(3)]
    assert found.tolist() == expected


SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)


def test_words_are_counted_by_element(lib: Library) -> None:
    """Element i of any shape is word offset + i of the definition, in Python's integers.

    Where each shape is compiled, of one shape, which others meet in the other tests.
    """

    @settings(max_examples=30)
    @given(shape=st.just((3, 7)) if lib.compiles else SHAPES, key=U64, call=U64, offset=st.integers(0, 2**64 - 1000))
    def check(shape: tuple[int, ...], key: int, call: int, offset: int) -> None:
        drawn = bits(shape, key, call, offset, like=lib.array([0.0]))
        assert type(drawn) is type(lib.array([0.0]))
        assert tuple(drawn.shape) == shape
        flat = lib.tonumpy(drawn).ravel()
        assert [int(w) for w in flat] == [word(offset + i, key, call) for i in range(flat.size)]

    check()


@pytest.mark.parametrize("offset", [2**32 * 4 - 6, 2**33 * 4 - 1, 2**64 - 1])
def test_the_block_counter_carries(lib: Library, offset: int) -> None:
    """Where the low word of the block counter overflows, the high word goes on."""
    drawn = lib.tonumpy(bits((20,), 1, 2, offset, like=lib.array([0.0])))
    assert [int(w) for w in drawn] == [word(offset + i, 1, 2) for i in range(20)]


def test_a_shard_is_a_part_of_the_whole(lib: Library) -> None:
    """Drawn in pieces with offsets, the words are those of one draw."""
    like = lib.array([0.0])
    whole = lib.tonumpy(bits((50,), 5, 6, like=like))
    for at in (0, 1, 7, 30):
        assert lib.tonumpy(bits((20,), 5, 6, at, like=like)).tolist() == whole[at : at + 20].tolist()


def test_a_traced_call_under_jit(need: Callable[[str], Library]) -> None:
    """The call may be an argument of a compiled function; no step of a loop compiles again."""
    for name in ("jax", "jax-x64"):
        lib = need(name)
        with lib.context():
            import jax

            traces: list[int] = []

            def draw(call: Any, traces: list[int] = traces, lib: Library = lib) -> Any:
                traces.append(1)
                return bits((9,), 3, call, like=lib.array([0.0]))

            compiled = jax.jit(draw)
            for call in range(3):
                assert [int(w) for w in compiled(call)] == [word(i, 3, call) for i in range(9)]
            assert len(traces) == 1


def test_a_call_held_in_an_array(lib: Library) -> None:
    """A 0-d integer array of the library is a call number, with both its words where it has 64 bits."""
    like = lib.array([0.0])
    wide = "64" in str(bits((1,), 0, like=like).dtype) or lib.name == "jax-x64"
    call = 2**40 + 3 if wide else 2**31 - 1
    array = lib.asarray(np.array(call, "int64" if wide else "int32"))
    assert [int(w) for w in lib.tonumpy(bits((5,), 8, array, like=like))] == [word(i, 8, call) for i in range(5)]


def test_calls_in_arrays_are_checked_like_numbers(lib: Library) -> None:
    """One integer, not negative; the same refusal on every library."""
    like = lib.array([0.0])
    for value, dtype, error, says in (
        (-1, "int32", ValueError, "call is -1"),
        (1.5, "float32", TypeError, "call is .*wanted an integer"),
        ([1, 2], "int32", TypeError, "call is .*wanted an integer"),
    ):
        with pytest.raises(error, match=says):
            bits((2,), 0, lib.asarray(np.array(value, dtype)), like=like)


def test_traced_calls_are_integers(need: Callable[[str], Library]) -> None:
    """Of a traced call dtype and shape are known."""
    lib = need("jax")
    import jax

    for value in (lib.array(1.5), lib.asarray(np.arange(2))):
        with pytest.raises(TypeError, match=r"call is an array of shape .* wanted one integer"):
            jax.jit(lambda call: bits((2,), 0, call, like=lib.array([0.0])))(value)


@pytest.mark.parametrize(("arguments", "error", "says"), BAD)
def test_bad_arguments(arguments: dict[str, Any], error: type[Exception], says: str) -> None:
    """Counters and keys are 64-bit unsigned integers."""
    with pytest.raises(error, match=says):
        bits((2,), like=np.zeros(1), **arguments)


@pytest.mark.parametrize(
    ("shape", "like", "says"),
    [
        ((-1,), np.empty(0), r"shape\[0\] is -1"),
        ((2.0,), np.empty(0), r"shape\[0\] is 2.0"),
        (3, np.empty(0), "shape is 3; wanted a tuple"),
        ((3,), 1.0, "like is 1.0; wanted an array"),
        ((3,), None, "like is None; wanted an array"),
        ((3,), [1.0], r"like is \[1.0\]; wanted an array"),
    ],
)
def test_what_is_no_shape_or_array_is_refused(shape: Any, like: Any, says: str) -> None:
    """By name, for all that draw."""
    for draw in (bits, uniform, normal):
        with pytest.raises((TypeError, ValueError), match=says):
            draw(shape, 0, like=like)
