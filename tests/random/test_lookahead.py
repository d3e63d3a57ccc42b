"""Choices that NumPy draws for several calls of a layer at once: as defined, in few draws, and little that is kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import anyoptim as ao
from anyoptim.random import _blocked_words, _dropout
from anyoptim.random._lookahead import CALLS, Lookahead
from anyoptim.random._mask_spec import MaskSpec
from tests.reference.philox import choice
from tests.support.engines import dropout_on
from tests.support.libraries import same_bits

FORWARDS = st.tuples(st.just("forward"), st.integers(1, 6))
CHANGES = st.tuples(st.sampled_from(["calls", "key"]), st.sampled_from([0, 1, 7, 2**32 - 3, 2**64 - 9]))
RATIOS = st.tuples(st.just("dropout_ratio"), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
SIZES = st.tuples(st.just("size"), st.sampled_from([1, 7, 8, 9, 200]))


@pytest.mark.telling
@pytest.mark.parametrize("call", [0, 2**32 - 6, 2**64 - 6])
@pytest.mark.parametrize(("n", "calls"), [(1, 5), (13, 5), (16, 1), (16, 3)])
def test_the_bits_of_calls_are_the_definition(n: int, calls: int, call: int) -> None:
    """Of each call a row, of each counter a byte, of each element a bit, from Python's own integers."""
    threshold, key = round(0.3 * 2**32), 2**64 - 5
    rows = _blocked_words.kept_of_calls(MaskSpec(threshold, 1.0, key, call, 0), -(-n // 8), calls)
    found = np.unpackbits(rows, axis=1, count=n, bitorder="little")
    assert found.tolist() == [[choice(i, key, call + c) >= threshold for i in range(n)] for c in range(calls)]


def _portable(x: Any, *arguments: Any, **options: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        dropout_on("portable", patch)
        return ao.dropout(x, *arguments, **options)


@pytest.mark.parametrize("name", ["dropout_ratio", "key", "calls", "size"])
def test_what_was_drawn_ahead_for_something_else(name: str) -> None:
    """A change after any number of calls, with more or fewer of those to come drawn already."""
    for before in range(9):
        layer, x = ao.Dropout(0.5, seed=3, engine="blocked"), np.ones(64, np.float32)
        for _ in range(before):
            layer.forward(x)
        if name == "size":
            x = np.ones(300, np.float32)
        else:
            setattr(layer, name, {"dropout_ratio": 0.2, "key": 4, "calls": 2}[name])
        for _ in range(3):
            expected = _portable(x, layer.dropout_ratio, layer.key, layer.calls)
            assert same_bits(layer.forward(x), expected), before


@settings(max_examples=40)
@given(st.lists(FORWARDS | CHANGES | RATIOS | SIZES, max_size=12), st.booleans())
def test_masks_are_those_of_key_and_call(events: list[tuple[str, Any]], inverted: bool) -> None:
    """Whatever changes between forwards, and wherever the count is set to, also before calls of more than 32 bits."""
    layer = ao.Dropout(0.5, inverted=inverted, seed=3, engine="blocked")
    x: Any = np.linspace(-1, 1, 40, dtype=np.float32)
    for what, value in [*events, ("forward", 3)]:
        if what == "size":
            x = np.linspace(-1, 1, value)
        elif what != "forward":
            setattr(layer, what, value)
        for _ in range(value if what == "forward" and layer.calls < 2**64 - 6 else 0):
            place = layer.dropout_ratio, layer.key, layer.calls
            expected = _portable(x, *place, inverted=inverted)
            assert same_bits(layer.forward(x), expected)
            assert same_bits(layer.backward(x), expected)
            assert layer.backward(out := x.copy(), out=out) is out
            assert same_bits(out, expected)
            half = x.astype(np.float16)
            assert same_bits(layer.backward(half), _portable(half, *place, inverted=inverted))


@pytest.mark.parametrize("n", [100_000, (1 << 20) - 1, (1 << 20) + 1])
def test_larger_arrays(n: int) -> None:
    """Whose forward takes a block or several, in threads too, and of which the largest keep no bits; in place, too."""
    x = np.linspace(-1, 1, n, dtype=np.float32)
    layer = ao.Dropout(0.3, inverted=True, seed=3, engine="blocked")
    for call in range(2):
        expected = _portable(x, 0.3, 3, call, inverted=True)
        assert same_bits(layer.forward(x), expected)
        assert same_bits(layer.backward(x), expected)
        assert layer.backward(out := x.copy(), out=out) is out
        assert same_bits(out, expected)


def test_what_is_odd_is_as_it_was() -> None:
    """Infinities, NaN and zeros of both signs; what is read-only is not written to; an array of no axis stays one."""
    x = np.array([np.inf, -np.inf, np.nan, -0.0, 0.0, -1.0, 1e-45, 3e38] * 4, np.float32)
    for ratio in (0.5, 0.9):
        layer = ao.Dropout(ratio, inverted=True, seed=1, engine="blocked")
        for call in range(4):
            assert same_bits(layer.forward(x), _portable(x, ratio, 1, call, inverted=True))
    x.flags.writeable = False
    with pytest.raises(TypeError, match="out can't be written to"):
        layer.forward(x, out=x)
    assert layer.calls == 4
    y = ao.Dropout(0.5, seed=1, engine="blocked").forward(np.ones(()))
    assert isinstance(y, np.ndarray)
    assert y.shape == ()


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """For how many calls each draw of NumPy was."""
    made: list[int] = []
    original = _blocked_words.kept_of_calls

    def watched(spec: MaskSpec, counters: int, calls: int) -> Any:
        made.append(calls)
        return original(spec, counters, calls)

    monkeypatch.setattr(_blocked_words, "kept_of_calls", watched)
    return lambda: made


def test_few_draws(draws: Callable[[], list[int]]) -> None:
    """One forward draws one call; as they go on, more at once, and no backward draws."""
    layer, x = ao.Dropout(0.5, seed=1, engine="blocked"), np.ones((32, 100), np.float32)
    for n, expected in ((1, [1]), (3, [1, 2]), (7, [1, 2, 4]), (40, [1, 2, 4, 8, 16, 25])):
        while layer.calls < n:
            layer.forward(x)
            layer.backward(x)
        assert draws() == expected
    layer.calls = 1000  # another call ends what was ahead
    layer.forward(x)
    assert draws()[6:] == [1]
    small = ao.Dropout(0.5, seed=1, engine="blocked")
    for _ in range(1000):
        small.forward(x[0])
    assert max(draws()[7:]) == CALLS


def test_a_sequence_draws_once(draws: Callable[[], list[int]]) -> None:
    """All of its steps have the mask of one call."""
    layer, x = ao.VariationalDropout(0.5, seed=1, engine="blocked"), np.ones(100)
    for _ in range(3):
        layer.new_sequence()
        masks = {layer.forward(x).tobytes() for _ in range(10)} | {layer.backward(x).tobytes()}
        assert len(masks) == 1
    assert draws() == [1, 2]


@pytest.mark.parametrize("n", [1, 3200, 40_000, 81_921, 1 << 20])
def test_little_is_kept(n: int) -> None:
    """No more than 128 KiB, for a layer, and as little as a block of counters where several calls are ahead."""
    ahead = Lookahead()
    for call in range(80):
        ahead.kept(MaskSpec(1 << 31, 1.0, 5, call, 0), n)
        assert ahead._drawn is not None
        _, _, rows = ahead._drawn
        whole = rows if rows.base is None else rows.base
        assert whole.nbytes <= (1 << 17 if len(rows) == 1 else _blocked_words.COUNTERS)
        if n > 100_000:
            break


def test_copies_go_without() -> None:
    """A pickle is as small as that of a layer that drew nothing; its next mask is the next mask."""
    layer, x = ao.Dropout(0.5, seed=1, engine="blocked"), np.ones(1 << 18, np.float32)
    before = len(pickle.dumps(layer))
    layer.forward(x)
    copies = [pickle.loads(pickle.dumps(layer)), deepcopy(layer)]  # noqa: S301
    assert len(pickle.dumps(layer)) < before + 1000
    y, dx = layer.forward(x), layer.backward(x)
    for other in copies:
        assert other.engine == "blocked"
        assert same_bits(other.forward(x), y)
        assert same_bits(other.backward(x), dx)


def test_a_layer_in_the_middle_of_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the handler of a signal makes: with the same layer it is one more call, and what is ahead is right after."""
    layer, x = ao.Dropout(0.5, seed=1, engine="blocked"), np.ones(50, np.float32)
    seen: list[None] = []
    original = _blocked_words._packed

    def interrupted(found: Any) -> Any:
        if len(seen) < 3:
            seen.append(None)
            layer.backward(x) if layer.calls else layer.mask
            ao.Dropout(0.5, seed=2, engine="blocked").forward(x)
        return original(found)

    monkeypatch.setattr(_blocked_words, "_packed", interrupted)
    for call in range(8):
        assert same_bits(layer.forward(x), _portable(x, 0.5, 1, call))
        assert same_bits(layer.backward(x), _portable(x, 0.5, 1, call))
    assert len(seen) == 3


def test_drawing_ahead_counts_towards_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it loses, which for a small array is NumPy's calls."""
    monkeypatch.setattr(_dropout, "_drawn", type(_dropout._drawn)())
    layer, x = ao.Dropout(0.5, seed=1), np.ones(10)
    for _ in range(5):
        layer.forward(x)
    assert dict(_dropout._drawn) == {"float64": 5 * (_dropout.FAST_CALLS + 10 // _dropout.FAST_SHARE)}
