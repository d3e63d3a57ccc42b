"""The engine of a layer, and what is compiled for it at once: as optimizers have both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from anyoptim.random import _blocked, _blocked_words, _compiled
from tests.support.engines import forget, look_again
from tests.support.internals import ENGINES
from tests.support.libraries import Library, same_bits
from tests.support.relatives import DISCOVERED, VARIANTS

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """In a process that has not drawn anything yet: what drew since it was last asked, each once."""
    forget(monkeypatch)
    found: list[str] = []

    def watch(module: Any, name: str, engine: str) -> None:
        original = getattr(module, name)

        def watched(*given: Any, **options: Any) -> Any:
            result = original(*given, **options)
            if result is not None or name != "fast_dropout":
                found.append(engine)
            return result

        monkeypatch.setattr(module, name, watched)

    for module, engine in ((_blocked, "blocked"), (_compiled, "compiled")):
        for name in ("dropout", "fast_dropout"):
            watch(module, name, engine)
    watch(_blocked_words, "words", "blocked")

    def asked() -> list[str]:
        engines = sorted(set(found))
        found.clear()
        return engines

    return asked


def _calls(layer: Any, x: Any) -> list[Any]:
    """All that a layer draws: counted, named, sampled, backwards, and its mask."""
    xs = (x, x) if isinstance(layer, ao.Zoneout) else (x,)
    drawn = [layer.forward(*xs), layer.backward(x), layer.forward(*xs, call=7), layer.backward(x, call=7)]
    flat: list[Any] = []
    for each in [*drawn, layer.sample(*xs, 7), layer.mask]:
        flat += each if isinstance(each, tuple) else [each]
    return flat


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_has_an_engine(variant: str, ran: Callable[[], list[str]]) -> None:
    """An argument and an attribute, which decides who draws, and neither masks nor states."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    x, expected = np.ones((2, 4, 3)), None
    for engine in (None, *(name for name in ENGINES if not ENGINES[name].unavailable())):
        layer = VARIANTS[variant].make(0.5, 3)
        assert layer.engine is None
        layer.engine = engine
        assert type(layer)(engine=engine).engine == engine
        assert "engine" not in layer.state_dict()
        assert repr(layer) == repr(VARIANTS[variant].make(0.5, 3))
        found = _calls(layer, x)
        if expected is None:
            expected, state = found, layer.state_dict()
        assert all(same_bits(a, b) for a, b in zip(found, expected, strict=True))
        assert layer.state_dict() == state
        draws = set(ran())
        if engine in {"jax", "portable"}:
            assert draws == set()
        elif engine == "blocked":
            assert draws == {"blocked"}
        else:
            assert draws <= {"blocked", "compiled"}
            assert draws


@pytest.mark.parametrize("out", [False, True])
def test_who_draws(ran: Callable[[], list[str]], out: bool) -> None:
    """The one that is named, at once; what it can't take, the next one after it; and without a name, the quickest."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    plain, unaligned = X.copy(), np.zeros(X.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    for engine, x, expected in (
        (None, plain, ["blocked"]),
        ("blocked", plain, ["blocked"]),
        ("portable", plain, []),
        ("compiled", plain, ["compiled"]),
        ("compiled", plain.T, ["compiled"]),
        ("compiled", unaligned, ["blocked"]),
        (None, plain.astype(np.float64), ["blocked"]),
    ):
        layer = ao.Dropout(0.5, seed=1, engine=engine)  # type: ignore[arg-type]
        layer.forward(x, out=x if out else None)
        assert ran() == expected
        layer.backward(x, out=x if out else None)
        assert ran() == expected
    layer = ao.Dropout(0.5, seed=1, engine="compiled")
    layer.forward(X)
    layer.engine = "blocked"
    layer.backward(X)
    assert ran() == ["blocked", "compiled"]


def test_the_function_and_other_layers_are_left_alone(ran: Callable[[], list[str]]) -> None:
    """What one layer names is for what it draws alone, also where that fails."""
    layer = ao.Dropout(0.5, seed=1, engine="portable")
    layer.forward(X.T)
    with pytest.raises(ValueError, match="call is -1"):
        layer.forward(X, call=-1)
    assert ran() == []
    ao.dropout(X, 0.5, 1)
    ao.Dropout(0.5, seed=1).forward(X)
    ao.random.normal((3,), 1, like=X)
    assert ran() == ["blocked"]


@pytest.mark.parametrize("name", sorted(DISCOVERED))
def test_bad_engines(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named or missing, they are refused as an optimizer's are, and the one before stays."""
    make: Any = DISCOVERED[name]
    layer = make(engine="blocked")
    look_again(monkeypatch)
    monkeypatch.setattr(ENGINES["compiled"], "missing", lambda: "Numba can't be found (pip install numba)")
    for wrong, error in (("warp", ValueError), (3, ValueError), ("compiled", ImportError)):
        with pytest.raises(error) as theirs:
            ao.SGD(engine=wrong)  # type: ignore[arg-type]
        with pytest.raises(error) as ours:
            make(engine=wrong)
        assert str(ours.value) == str(theirs.value)
        with pytest.raises(error):
            layer.engine = wrong
        assert layer.engine == "blocked"
    with pytest.raises(TypeError, match=rf"{name} was given device; wanted dropout_ratio, .*seed, engine"):
        make(device="cpu")


# Compiling ahead ---------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The loops that are asked for."""
    found: list[tuple[str, ...]] = []
    original = _compiled._load

    def load(*which: str) -> Any:
        found.append(which)
        return original(*which)

    monkeypatch.setattr(_compiled, "_load", load)
    return found


def test_compile(ran: Callable[[], list[str]], loaded: list[tuple[str, ...]]) -> None:
    """From the next call on the loop runs, forward and backward, for this dtype, with nothing more to compile."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    layer = ao.Dropout(0.5, seed=1)
    layer.forward(X)
    assert ran() == ["blocked"]
    layer.compile(X)
    before = {*loaded}
    assert layer.calls == 1
    assert ran() == []
    layer.backward(X)
    layer.forward(X.copy(), out=(y := X.copy()))
    layer.backward(y, out=y)
    assert ran() == ["compiled"]
    assert {*loaded} == before == {("flat", "float32", "y"), ("flat", "float32", "x")}
    layer.forward(X.astype(np.float64))
    assert ran() == ["blocked"]
    layer.compile(X.T)
    before = {*loaded}
    assert {kind for kind, *_ in before} == {"flat", "strided"}
    layer.forward(X.T)
    layer.backward(X.T)
    assert ran() == ["compiled"]
    assert {*loaded} == before


@pytest.mark.parametrize("variant", VARIANTS)
def test_layers_that_have_no_loop_compile_none(
    variant: str, loaded: list[tuple[str, ...]], ran: Callable[[], list[str]]
) -> None:
    """Where elements share a choice, and where the numbers are others: it is compiled for who would use it."""
    pytest.importorskip("numba", reason="the compiled engine needs it")
    layer = VARIANTS[variant].make(0.5, 1)
    x = np.ones((2, 4, 3), np.float32)
    layer.compile(x)
    compiled = bool(loaded)
    layer.engine = "compiled"
    _calls(layer, x)
    assert ("compiled" in ran()) == compiled
    assert compiled == (
        variant.partition(",")[0] in {"Dropout", "DropConnect", "VariationalDropout", "AlphaDropout"}
        and "noise" not in variant
    )


def test_what_nobody_compiles_for_is_passed_over(lib: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every library: nothing is drawn or counted, and the next forward is as it would have been."""
    if lib.name in {"numpy", "torch"}:
        pytest.importorskip("numba", reason="the compiled engine needs it")
    forget(monkeypatch)
    x = lib.array(X)
    layer = ao.Dropout(0.5, seed=1)
    layer.compile(x)
    layer.compile(2.0)
    assert layer.calls == 0
    assert lib.tonumpy(layer.forward(x)).tolist() == ao.Dropout(0.5, seed=1).forward(X).tolist()


def test_compiling_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is an ImportError that says what to install, as an optimizer's; a layer without a loop has nothing to miss."""
    monkeypatch.setattr(ENGINES["compiled"], "missing", lambda: "Numba can't be found (pip install numba)")
    with pytest.raises(ImportError) as theirs:
        ao.SGD().compile(X)
    with pytest.raises(ImportError) as ours:
        ao.Dropout().compile(X)
    assert str(ours.value) == str(theirs.value)
    ao.GaussianDropout().compile(X)
    with pytest.raises(TypeError, match="x has dtype int64"):
        ao.GaussianDropout().compile(np.ones(3, np.int64))


def test_on_a_device(need: Callable[[str], Library], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is compiled and not launched; an engine that comes after it is the library's own operations."""
    need("cuda-shim")
    from tests.support import shim

    machine, x = shim.install(shim.Machine()), shim.asarray(X)
    ao.Dropout(0.5, seed=1).compile(x)
    assert machine.loaded == ["dropout"]
    assert not machine.launches
    launches = len(machine.launches)
    y = ao.Dropout(0.5, seed=1, engine="cuda").forward(x)
    assert len(machine.launches) == launches + 1
    assert machine.loaded == ["dropout"]
    others: tuple[ao.EngineName, ...] = ("blocked", "portable")
    for engine in others:
        assert same_bits(shim.tonumpy(ao.Dropout(0.5, seed=1, engine=engine).forward(x)), shim.tonumpy(y))
    assert len(machine.launches) == launches + 1
    monkeypatch.setattr(ENGINES["cuda"], "missing", lambda: "cuda.core can't be found")
    with pytest.raises(ImportError, match=r"engine is 'cuda', but cuda.core can't be found"):
        ao.Dropout().compile(x)
