"""The chains that tests run over, and the same in plain float64 NumPy, with nothing of anyoptim's in it."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import numpy as np

import anyoptim as ao
from tests.reference import papers_composed
from tests.support.libraries import COMPOSED, Library, same_bits
from tests.support.xla import quick

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Make = Callable[[ao.EngineName | None], ao.Optimizer]


class Smoothed(ao.Stage):
    """A running mean of what flows through, whose slot has the name of Momentum's."""

    share: ao.Fraction
    slots = ("v",)

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, v: Any, c: Any) -> tuple[Any, ...]:
        v = v + c.share * (x - v)
        return v, v


class Shortened(ao.Stage):
    """A stage whose norm is of no plain x, and which comes to rest."""

    reductions = {"norm": ao.Norm(lambda xp, p, x: x * xp.sign(p) + 0.5 * p)}
    coefficients = staticmethod(lambda t, hyper: {"scale": 1 / (1 + hyper.norm), "late": t > 3})

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, c: Any) -> Any:
        return x * c.scale if c.late else x * c.scale + 0.25 * x


class Asking(ao.Stage):
    """A stage that divides by a maximum, an inner product, a sum, a count and the size of all parameters."""

    reductions = {
        "top": ao.Max(lambda xp, p, x: xp.abs(x)),
        "along": ao.Dot(lambda xp, p, x: p, lambda xp, p, x: x),
        "total": ao.Sum(lambda xp, p, x: x),
        "above": ao.Count(lambda xp, p, x: x > 0.1),
        "size": ao.Size(),
    }

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        squares = hyper.along * hyper.along + hyper.total * hyper.total
        finite = (squares < 1e300) & (hyper.top < 1e300)
        scale = hyper.top / (1 + squares) + hyper.above / hyper.size
        return {"scale": ao.scalars.where(finite, scale, 0.5)}

    rule = staticmethod(lambda xp, p, x, c: x * c.scale)


class Whole(ao.Stage):
    """A stage that takes complex elements as a whole: one real slot, and reductions of moduli, of parts and of both."""

    slots = ("size",)
    real_slots = ("size",)
    starts = {"size": 0.5}
    reductions = {
        "top": ao.Max(lambda xp, p, x, size: xp.modulus(x)),
        "norm": ao.Norm(lambda xp, p, x, size: xp.modulus(p) * x),
        "along": ao.Dot(lambda xp, p, x, size: xp.modulus(p), lambda xp, p, x, size: size * x),
        "total": ao.Sum(lambda xp, p, x, size: size),
        "above": ao.Count(lambda xp, p, x, size: xp.squared_modulus(x) > 0.1),
    }

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        squares = hyper.along * hyper.along + hyper.total * hyper.total + hyper.norm * hyper.norm
        finite = (squares < 1e300) & (hyper.top < 1e300)
        return {"scale": ao.scalars.where(finite, (hyper.top + hyper.above) / (1 + squares), 0.5)}

    @staticmethod
    def rule(xp: Any, p: Any, x: Any, size: Any, c: Any) -> tuple[Any, ...]:
        size = 0.75 * size + 0.25 * xp.modulus(x)
        return x * c.scale + size * x, size


class Seen(ao.Stage):
    """A stage that takes down the norm of what flows through it, in a list that its copies share."""

    reductions = {"norm": ao.Norm(lambda xp, p, x: x)}
    rule = staticmethod(lambda xp, p, x, c: x)

    def __init__(self, norms: list[float]) -> None:
        super().__init__()
        self._note = norms.append

    def coefficients(self, t: int, hyper: Any) -> dict[str, Any]:
        self._note(float(hyper.norm))
        return {}


def matrices(path: str, p: Any) -> bool:
    """Whether a parameter decays: all but biases do."""
    return not path.endswith("b")


HYPER: dict[str, dict[str, float]] = {
    "LARS": {"lr": 0.5, "momentum": 0.8, "weight_decay": 0.1, "trust": 0.1, "eps": 1e-6},
    "LAMB": {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1, "upper": 2.0},
    "ScheduleFreeSGD": {"lr": 0.1, "beta": 0.9, "weight_decay": 0.1},
    "ScheduleFreeAdamW": {"lr": 0.1, "beta": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1},
    "Prodigy": {"lr": 0.5, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.1, "d0": 0.1, "growth": 1.0},
}
"""Hyperparameters of the methods that have reductions or keep scalars, each of which is a row below."""

CHAINS: dict[str, Make] = {
    "clip, Adam, EMA": lambda e: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9), engine=e),
    "decay, Momentum": lambda e: ao.chain(ao.WeightDecay(0.1, where=matrices), ao.Momentum(lr=0.1), engine=e),
    "Adam, clip, decay, EMA, flush": lambda e: ao.chain(
        ao.Adam(lr=0.1),
        ao.ClipGlobalNorm(0.2),
        ao.WeightDecay(0.01, where=matrices),
        ao.EMA(0.9),
        ao.FlushSubnormals(),
        engine=e,
    ),
    "clip, Momentum, clip": lambda e: ao.chain(
        ao.ClipGlobalNorm(2.0), ao.Momentum(lr=0.1), ao.ClipGlobalNorm(0.1), engine=e
    ),
    "cut, RMSProp, ask, Trace, Scale": lambda e: ao.chain(
        ao.ClipValue(1.5), ao.RMSProp(1.0), Asking(), ao.Trace(0.8), ao.Scale(0.03), engine=e
    ),
    "two slots of one name": lambda e: ao.chain(
        Smoothed(share=0.5), Shortened(), ao.Momentum(lr=0.1), Smoothed(share=0.25), ao.EMA(0.5), engine=e
    ),
    "climb, Signum, Lookahead": lambda e: ao.chain(
        ao.Maximize(), ao.Signum(lr=0.1), ao.Lookahead(3, share=0.75), engine=e
    ),
    "Rprop, Box, SWA": lambda e: ao.chain(ao.Rprop(initial=0.1), ao.Box(-0.75, 1.25), ao.SWA(4, every=3), engine=e),
    "Lion, NonNegative, SWA": lambda e: ao.chain(
        ao.Lion(lr=0.1, weight_decay=0.1), ao.NonNegative(), ao.SWA(0), engine=e
    ),
    "HeavyBall, proximal steps": lambda e: ao.chain(
        ao.HeavyBall(lr=0.1), ao.prox.L1(0.5), ao.prox.L2(0.25), ao.prox.ElasticNet(0.5, rho=0.75), engine=e
    ),
    "clip each, Momentum, Cautious, trust": lambda e: ao.chain(
        ao.ClipNorm(0.5), ao.Momentum(lr=0.1), ao.Cautious(), ao.TrustRatio(0.1, 1e-3, upper=2.0), engine=e
    ),
    "whole, joint Adam, clip, EMA": lambda e: ao.chain(
        Whole(), ao.Adam(lr=0.1, joint=True), ao.ClipGlobalNorm(0.5), ao.EMA(0.9), engine=e
    ),
    **{name: lambda e, name=name: COMPOSED[name](**HYPER[name], engine=e) for name in HYPER},  # type: ignore[misc]
}
"""The chains, and methods that have reductions or keep scalars, each made for an engine."""

APART: dict[str, str] = {
    "Accumulate": "it takes no step of most gradients: tests/stages/test_control.py",
    "LossScale": "what it does depends on what is not finite: tests/stages/test_control.py",
    "SkipNonFinite": "what it does depends on what is not finite: tests/stages/test_control.py",
    "AdaptiveClip": "whole arrays, which have no kernel: tests/stages/test_layers.py",
    "Centralize": "whole arrays, which have no kernel: tests/stages/test_layers.py",
    "UnitNorm": "whole arrays, which have no kernel: tests/stages/test_layers.py",
    "L21": "whole arrays, which have no kernel: tests/stages/test_prox.py",
    "Nuclear": "whole arrays, which have no kernel: tests/stages/test_prox.py",
    "Operator": "whole arrays, which have no kernel: tests/stages/test_prox.py",
    "Simplex": "whole arrays, which have no kernel: tests/stages/test_prox.py",
    "Support": "its mask is an array: tests/core/test_elements.py",
    "Metric": "it changes nothing: tests/stages/test_metrics.py",
    "Metrics": "it changes nothing: tests/stages/test_metrics.py",
}
"""The public stages that are in no chain here, why, and where they are tested."""

ALIKE = {"Adam, clip, decay, EMA, flush", "clip, Momentum, clip", "LARS", "ScheduleFreeSGD"}
"""Of whose kinds there are others: Numba compiles their loops, seconds each, among the products."""

KINDS = [name for name in CHAINS if name not in HYPER or name == "LAMB"]
"""All chains, and one of the methods with reductions, for tests of what these do alike."""

ROOTLESS = [name for name in CHAINS if not any(of in name for of in ("Adam", "RMSProp", "LAMB", "Prodigy", "proximal"))]
"""The chains without a square root of an element, or a modulus, which torch rounds otherwise."""


def _clip(max_norm: float) -> Any:
    def stage(p: Arrays, x: Arrays) -> Arrays:
        norm = math.sqrt(math.fsum(v * v for a in x.values() for v in a.ravel().tolist()))
        return {k: a * min(1.0, max_norm / norm) for k, a in x.items()}

    return stage


def _decay(share: float) -> Any:
    return lambda p, x: {k: x[k] + (share * p[k] if matrices(k, None) else 0.0) for k in x}


def _momentum(lr: float, momentum: float = 0.9) -> Any:
    sums: Arrays = {}

    def stage(p: Arrays, x: Arrays) -> Arrays:
        for k in x:
            sums[k] = x[k] + momentum * sums.get(k, np.zeros_like(x[k]))
        return {k: lr * sums[k] for k in x}

    return stage


def _clip_each(max_norm: float) -> Any:
    return lambda p, x: {k: a * min(1.0, max_norm / np.linalg.norm(a)) for k, a in x.items()}


def _cautious(*inner: Any) -> list[Any]:
    """These stages, and behind them what drops the elements of their step that go against the first one's gradient."""
    began: Arrays = {}

    def before(p: Arrays, x: Arrays) -> Arrays:
        began.update(x)
        return x

    def behind(p: Arrays, x: Arrays) -> Arrays:
        along = {k: np.sign(a) * np.sign(began[k]) == 1 for k, a in x.items()}
        return {k: along[k] * a * a.size / (np.count_nonzero(along[k]) + 1) for k, a in x.items()}

    return [before, *inner, behind]


def _trust(share: float, eps: float, upper: float) -> Any:
    def stage(p: Arrays, x: Arrays) -> Arrays:
        lengths = {k: share * min(float(np.linalg.norm(p[k])), upper) for k in x}
        return {k: lengths[k] * a / (np.linalg.norm(a) + eps) if np.any(a) else a for k, a in x.items()}

    return stage


def _smoothed(share: float) -> Any:
    means: Arrays = {}

    def stage(p: Arrays, x: Arrays) -> Arrays:
        for k in x:
            means[k] = (1 - share) * means.get(k, np.zeros_like(x[k])) + share * x[k]
        return dict(means)

    return stage


def _shortened() -> Any:
    steps = 0

    def stage(p: Arrays, x: Arrays) -> Arrays:
        nonlocal steps
        steps += 1
        whole = np.concatenate([(x[k] * np.sign(p[k]) + p[k] / 2).ravel() for k in x])
        factor = 1 / (1 + float(np.linalg.norm(whole))) + (0 if steps > 3 else 0.25)
        return {k: factor * x[k] for k in x}

    return stage


def _asked() -> Any:
    def stage(p: Arrays, x: Arrays) -> Arrays:
        whole_p, whole_x = (np.concatenate([a[k].ravel() for k in x]) for a in (p, x))
        along, total = math.fsum(whole_p * whole_x), math.fsum(whole_x)
        factor = float(np.max(np.abs(whole_x))) / (1 + along * along + total * total) + float(np.mean(whole_x > 0.1))
        return {k: factor * a for k, a in x.items()}

    return stage


def _whole() -> Any:
    sizes: Arrays = {}

    def stage(p: Arrays, x: Arrays) -> Arrays:
        before = {k: sizes.get(k, np.full(a.shape, 0.5)) for k, a in x.items()}
        whole_p, whole_x, whole_size = (np.concatenate([np.ravel(a[k]) for k in x]) for a in (p, x, before))
        along = math.fsum(np.abs(whole_p) * whole_size * whole_x)
        squares = along * along + math.fsum(whole_size) ** 2 + math.fsum((whole_p * whole_x) ** 2)
        factor = (float(np.max(np.abs(whole_x))) + float(np.sum(whole_x**2 > 0.1))) / (1 + squares)
        sizes.update({k: 0.75 * before[k] + 0.25 * np.abs(a) for k, a in x.items()})
        return {k: (factor + sizes[k]) * a for k, a in x.items()}

    return stage


def _adam(lr: float) -> Any:
    means: Arrays = {}
    squares: Arrays = {}
    steps = 0

    def stage(p: Arrays, x: Arrays) -> Arrays:
        nonlocal steps
        steps += 1
        out = {}
        for k in x:
            means[k] = 0.9 * means.get(k, np.zeros_like(x[k])) + 0.1 * x[k]
            squares[k] = 0.999 * squares.get(k, np.zeros_like(x[k])) + 0.001 * x[k] ** 2
            rate = lr * math.sqrt(1 - 0.999**steps) / (1 - 0.9**steps)
            out[k] = rate * means[k] / (np.sqrt(squares[k]) + 1e-7)
        return out

    return stage


def _cut(limit: float) -> Any:
    return lambda p, x: {k: np.clip(a, -limit, limit) for k, a in x.items()}


def _rmsprop() -> Any:
    squares: Arrays = {}

    def stage(p: Arrays, x: Arrays) -> Arrays:
        for k in x:
            squares[k] = 0.99 * squares.get(k, np.zeros_like(x[k])) + 0.01 * x[k] ** 2
        return {k: x[k] / (np.sqrt(squares[k]) + 1e-7) for k in x}

    return stage


def _signum(lr: float) -> Any:
    means: Arrays = {}

    def stage(p: Arrays, x: Arrays) -> Arrays:
        for k in x:
            means[k] = 0.9 * means.get(k, np.zeros_like(x[k])) + 0.1 * x[k]
        return {k: lr * np.sign(means[k]) for k in x}

    return stage


def _paper(name: str) -> Any:
    """A transcription of a paper as a stage, whose output is what it takes from the parameters."""
    transcription = papers_composed.METHODS[name](**HYPER[name])

    def stage(p: Arrays, x: Arrays) -> Arrays:
        moved = {k: a.copy() for k, a in p.items()}
        transcription.update(moved, x)
        return {k: p[k] - moved[k] for k in p}

    return stage


def _lion(lr: float, decay: float) -> Any:
    means: Arrays = {}

    def stage(p: Arrays, x: Arrays) -> Arrays:
        out = {}
        for k in x:
            mean = means.get(k, np.zeros_like(x[k]))
            out[k] = lr * (np.sign(0.9 * mean + 0.1 * x[k]) + decay * p[k])
            means[k] = 0.99 * mean + 0.01 * x[k]
        return out

    return stage


def _rprop(first: float) -> Any:
    before: Arrays = {}
    lengths: Arrays = {}

    def stage(p: Arrays, x: Arrays) -> Arrays:
        for k in x:
            turn = before.get(k, np.zeros_like(x[k])) * x[k]
            factor = np.select([turn > 0, turn < 0], [1.2, 0.5], 1.0)
            lengths[k] = np.clip(lengths.get(k, np.full_like(x[k], first)) * factor, 1e-6, 50.0)
            before[k] = np.where(turn < 0, 0.0, x[k])
        return {k: lengths[k] * np.sign(before[k]) for k in x}

    return stage


def _ema(decay: float) -> Any:
    return lambda t, p, average: (p, {k: decay * average[k] + (1 - decay) * p[k] for k in p})


def _lookahead(every: int, share: float) -> Any:
    def after(t: int, p: Arrays, slow: Arrays) -> tuple[Arrays, Arrays]:
        if t % every:
            return p, slow
        slow = {k: (1 - share) * slow[k] + share * p[k] for k in p}
        return dict(slow), slow

    return after


def _swa(start: int, every: int, least: float, largest: float) -> Any:
    """Parameters that are cut off and then averaged: the mean of all that belong to it, summed up anew each time."""
    seen: list[Arrays] = []

    def after(t: int, p: Arrays, average: Arrays) -> tuple[Arrays, Arrays]:
        if t == 1 and start == 0:
            seen.append(average)
        p = {k: np.clip(a, least, largest) for k, a in p.items()}
        if t >= start and (t - start) % every == 0:
            seen.append(p)
        return p, {k: np.asarray(sum(one[k] for one in seen) / len(seen)) for k in p} if seen else p

    return after


def _shrunk(t: int, p: Arrays, average: Arrays) -> tuple[Arrays, Arrays]:
    """Soft thresholding, a division, and both, with a learning rate of 0.1."""
    for cut, divisor in [(0.05, 1.0), (0.0, 1.025), (0.0375, 1.0125)]:
        p = {k: np.sign(a) * np.maximum(np.abs(a) - cut, 0.0) / divisor for k, a in p.items()}
    return p, average


def _nothing(t: int, p: Arrays, average: Arrays) -> tuple[Arrays, Arrays]:
    return p, average


PLAIN: dict[str, Callable[[], tuple[list[Any], Any]]] = {
    "clip, Adam, EMA": lambda: ([_clip(0.5), _adam(0.1)], _ema(0.9)),
    "decay, Momentum": lambda: ([_decay(0.1), _momentum(0.1)], _nothing),
    "Adam, clip, decay, EMA, flush": lambda: ([_adam(0.1), _clip(0.2), _decay(0.01)], _ema(0.9)),
    "clip, Momentum, clip": lambda: ([_clip(2.0), _momentum(0.1), _clip(0.1)], _nothing),
    "cut, RMSProp, ask, Trace, Scale": lambda: ([_cut(1.5), _rmsprop(), _asked(), _momentum(0.03, 0.8)], _nothing),
    "two slots of one name": lambda: ([_smoothed(0.5), _shortened(), _momentum(0.1), _smoothed(0.25)], _ema(0.5)),
    "climb, Signum, Lookahead": lambda: (
        [lambda p, x: {k: -a for k, a in x.items()}, _signum(0.1)],
        _lookahead(3, 0.75),
    ),
    "Rprop, Box, SWA": lambda: ([_rprop(0.1)], _swa(4, 3, -0.75, 1.25)),
    "Lion, NonNegative, SWA": lambda: ([_lion(0.1, 0.1)], _swa(0, 1, 0.0, math.inf)),
    "HeavyBall, proximal steps": lambda: ([_momentum(0.1)], _shrunk),
    "clip each, Momentum, Cautious, trust": lambda: (
        [*_cautious(_clip_each(0.5), _momentum(0.1)), _trust(0.1, 1e-3, 2.0)],
        _nothing,
    ),
    "whole, joint Adam, clip, EMA": lambda: ([_whole(), _adam(0.1), _clip(0.5)], _ema(0.9)),
    **{name: lambda name=name: ([_paper(name)], _nothing) for name in HYPER},  # type: ignore[misc]
}
"""The same chains in NumPy: the functions of the gradient, in turn, and that of the parameters and their average."""


def plain(name: str, params: Arrays, grads: list[Arrays]) -> tuple[Arrays, Arrays]:
    """The parameters after all steps, and their averages."""
    stages, after = PLAIN[name]()
    p = {k: a.copy() for k, a in params.items()}
    average = {k: a.copy() for k, a in params.items()}
    for t, x in enumerate(grads, 1):
        step = x
        for stage in stages:
            step = stage(p, step)
        p, average = after(t, {k: p[k] - step[k] for k in p}, average)
    return p, average


def problem(dtype: str = "float64", steps: int = 50, seed: int = 3) -> tuple[Arrays, list[Arrays]]:
    """Parameters and gradients: a matrix, a bias and a number."""
    rng = np.random.default_rng(seed)

    def draw() -> Arrays:
        parts = {"W": (5, 7), "b": (7,), "s": ()}
        real, imag = ({k: np.asarray(rng.normal(size=s)) for k, s in parts.items()} for _ in range(2))
        return {k: np.asarray(real[k] + (1j * imag[k] if "complex" in dtype else 0), dtype) for k in parts}

    return draw(), [draw() for _ in range(steps)]


def flat(tree: Any) -> list[Array]:
    """The arrays of a state or of parameters in order, complex ones as reals."""
    if isinstance(tree, dict):
        return [a for value in tree.values() for a in flat(value)]
    if isinstance(tree, tuple | list):
        return [a for value in tree for a in flat(value)]
    a = np.asarray(tree)
    return [np.stack([a.real, a.imag]) if a.dtype.kind == "c" else a]


def agree(one: Any, two: Any) -> bool:
    """Whether two trees of NumPy arrays are the same to the last bit."""
    return all(same_bits(a, b) for a, b in zip(flat(one), flat(two), strict=True))


def run(optimizer: ao.Optimizer, params: Any, grads: list[Any]) -> tuple[Any, Any]:
    """The parameters and the slots after these steps, by stage of a method, too."""
    for g in grads:
        optimizer.update(params, g)
    assert optimizer.state is not None
    slots = optimizer.state.slots
    return params, slots if isinstance(slots, tuple) else (slots,)


COPIES: list[Callable[[Any], Any]] = [copy, deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))]  # noqa: S301
"""The ways to copy an optimizer."""


def copied_halfway(
    optimizer: ao.Optimizer, copied: Callable[[Any], Any], params: Arrays, grads: list[Arrays]
) -> tuple[Any, Arrays]:
    """A copy of an optimizer after half of the gradients, and its parameters after all of them.

    The copy reads like the optimizer, and both go on alone to the same bits.
    """
    half = len(grads) // 2
    for g in grads[:half]:
        optimizer.update(params, g)
    twin, other = {k: a.copy() for k, a in params.items()}, copied(optimizer)
    assert repr(other) == repr(optimizer)
    for g in grads[half:]:
        optimizer.update(params, g)
    for g in grads[half:]:
        other.update(twin, g)
    assert agree(params, twin)
    return other, twin


def step_under_jit(make: Callable[[], ao.Optimizer], lib: Library) -> tuple[Arrays, dict[str, Any]]:
    """The parameters after ten updates of NumPy arrays, and after ten steps under `jax.jit`.

    The step is traced once, and gives what the update gives to 1e-5, as XLA contracts products and sums.
    """

    optimizer, eager = make(), make()
    params, grads = problem("float32", steps=10)

    traces = []

    def counted(*arguments: Any) -> Any:
        traces.append(1)
        return optimizer.step(*arguments)

    step = quick(counted)
    p: Any = {k: lib.asarray(a) for k, a in params.items()}
    state = optimizer.init(p)
    for g in grads:
        p, state = step(p, {k: lib.asarray(a) for k, a in g.items()}, state)
        eager.update(params, g)
    assert len(traces) == 1
    for k, a in params.items():
        np.testing.assert_allclose(p[k], a, rtol=1e-5, atol=1e-5)
    return params, p
