"""Optax's transformations that are stages here, and its chain, which knows which way is down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from anyoptim._arrays import Array
from anyoptim._core._chain import chain as chained
from anyoptim._core._optimizer import Optimizer
from anyoptim._stage._stage import Stage
from anyoptim._trace._hyperparameters import Hyper, Positive
from anyoptim.compat._counts import Product, rate
from anyoptim.compat.optax._masks import accumulator, masked
from anyoptim.compat.optax._stages import NesterovStepTrace, NesterovTrace, StepTrace, SumAccumulate
from anyoptim.compat.optax._whole import BlockRMS, ClipBlockRMS, CorrectedMean, Mean
from anyoptim.optimizers import SGD
from anyoptim.stages import (
    Accumulate,
    Centralize,
    ClipGlobalNorm,
    ClipValue,
    Lookahead,
    NonNegative,
    Scale,
    SkipNonFinite,
    Trace,
    TrustRatio,
    WeightDecay,
)
from anyoptim.stages.layers import is_complex

__all__ = [
    "MultiSteps",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "apply_if_finite",
    "centralize",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "ema",
    "keep_params_nonnegative",
    "lookahead",
    "scale",
    "scale_by_learning_rate",
    "scale_by_param_block_rms",
    "scale_by_schedule",
    "scale_by_trust_ratio",
    "trace",
]

_FOREVER = 2**31 - 1
"""What optax's counts go up to."""


class _UnitwiseClip(Stage):
    """Shorten each column of a gradient that is longer than a share of the column of the parameter.

    ::

        |p| and |x| are norms over all axes but the last, of three axes over the first, of vectors as a whole
        x <- x * share * max(|p|, eps) / max(|x|, 1e-6)      where |x| is not below share * max(|p|, eps)
    """

    share: Positive
    eps: Positive
    array_rule = True

    def refusal(self, p: Array) -> str | None:
        """Refuse complex parameters, and those of more than five axes."""
        if is_complex(p):
            return "is complex; adaptive_grad_clip wants real parameters"
        return None if p.ndim <= 5 else f"has {p.ndim} axes; adaptive_grad_clip wants at most 5"

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        of_p, of_x = _lengths(xp, p), _lengths(xp, x)
        longest = c.share * xp.where(of_p > c.eps, of_p, xp.full_like(of_p, c.eps))
        divisor = xp.where(of_x > 1e-6, of_x, xp.full_like(of_x, 1e-6))
        return xp.where(of_x < longest, x, x * (longest / divisor))


def _lengths(xp: Any, a: Array) -> Array:
    if sum(n > 1 for n in a.shape) <= 1:
        axes = tuple(range(a.ndim))
    else:
        axes = (0,) if a.ndim in {2, 3} else tuple(range(a.ndim - 1))
    return xp.sqrt(xp.sum(a * a, axis=axes, keepdims=True)) if axes else xp.abs(a)


class _Down(Scale):
    """A learning rate that turns the direction of what flows through."""


def clip(max_delta: float) -> Stage:
    """`ClipValue`.

    >>> ao.compat.optax.clip(1.0)
    ClipValue(limit=1.0)
    """
    return ClipValue(max_delta)


def clip_by_block_rms(threshold: float) -> Stage:
    """Each parameter's gradient, shortened to a root mean square.

    >>> ao.compat.optax.clip_by_block_rms(1.0)
    ClipBlockRMS(threshold=1.0)
    """
    return ClipBlockRMS(threshold)


def clip_by_global_norm(max_norm: float) -> Stage:
    """`ClipGlobalNorm`.

    >>> ao.compat.optax.clip_by_global_norm(1.0)
    ClipGlobalNorm(max_norm=1.0)
    """
    return ClipGlobalNorm(max_norm)


def adaptive_grad_clip(clipping: float, eps: float = 1e-3, axis: Any = None) -> Stage:
    """`AdaptiveClip` by columns, as optax has it. Refuses another `axis` than None.

    >>> ao.chain(ao.compat.optax.adaptive_grad_clip(0.1), ao.SGD(1.0)).update(np.ones(2), np.ones(2))
    array([0.9, 0.9])
    """
    if axis is not None:
        raise ValueError(f"axis is {axis!r}; wanted None")
    return _UnitwiseClip(clipping, eps)


def add_decayed_weights(weight_decay: Hyper = 0.0, mask: Any = None) -> Stage:
    """`WeightDecay`.

    >>> ao.compat.optax.add_decayed_weights(0.1)
    WeightDecay(decay=0.1)
    """
    return WeightDecay(rate(weight_decay), where=masked("mask", mask))


def trace(decay: float, nesterov: bool = False, accumulator_dtype: Any = None) -> Stage:
    """`Trace`, which may look ahead.

    >>> ao.compat.optax.trace(0.9)
    Trace(momentum=0.9)
    """
    accumulator("accumulator_dtype", accumulator_dtype)
    return (NesterovTrace if nesterov else Trace)(decay)


def ema(decay: float, debias: bool = True, accumulator_dtype: Any = None) -> Stage:
    """A running mean of what flows through, corrected for its start with `debias`.

    >>> ao.compat.optax.ema(0.9)
    CorrectedMean(decay=0.9)
    """
    accumulator("accumulator_dtype", accumulator_dtype)
    return (CorrectedMean if debias else Mean)(decay)


def centralize() -> Stage:
    """`Centralize`.

    >>> ao.compat.optax.centralize()
    Centralize()
    """
    return Centralize()


def scale(step_size: float) -> Stage:
    """`Scale`.

    >>> ao.compat.optax.scale(0.1)
    Scale(factor=0.1)
    """
    return Scale(step_size)


def scale_by_schedule(step_size_fn: Callable[[Any], Any]) -> Stage:
    """`Scale` by a schedule.

    >>> from anyoptim.compat import optax
    >>> ramp = optax.linear_schedule(1.0, 0.0, 4)
    >>> w, optimizer = np.zeros(1), ao.chain(optax.sgd(1.0), optax.scale_by_schedule(ramp))
    >>> [float(optimizer.update(w, -np.ones(1))[0]) for _ in range(5)]
    [1.0, 1.75, 2.25, 2.5, 2.5]
    """
    return Scale(rate(step_size_fn))


def scale_by_learning_rate(learning_rate: Hyper | None = None, *, flip_sign: bool = True) -> Stage:
    """`Scale`, which turns the direction with `flip_sign`; nothing without a learning rate.

    >>> ao.compat.optax.chain(ao.compat.optax.scale_by_learning_rate(0.1)).update(np.ones(2), np.ones(2))
    array([0.9, 0.9])
    """
    if learning_rate is None:
        return Scale(1.0)
    return (_Down if flip_sign else Scale)(rate(learning_rate))


def scale_by_trust_ratio(min_norm: float = 0.0, trust_coefficient: float = 1.0, eps: float = 0.0) -> Stage:
    """`TrustRatio`. Refuses another `min_norm` than 0.

    >>> ao.compat.optax.scale_by_trust_ratio()
    TrustRatio(share=1.0, eps=0.0)
    """
    if min_norm:
        raise ValueError(f"min_norm is {min_norm}; wanted 0")
    return TrustRatio(trust_coefficient, eps)


def scale_by_param_block_rms(min_scale: float = 1e-3) -> Stage:
    """`BlockRMS`: multiply by the root mean square of each parameter.

    >>> ao.compat.optax.scale_by_param_block_rms()
    BlockRMS(floor=0.001)
    """
    return BlockRMS(min_scale)


def keep_params_nonnegative() -> Stage:
    """`NonNegative`, at the end of a chain.

    >>> ao.compat.optax.keep_params_nonnegative()
    NonNegative()
    """
    return NonNegative()


def apply_if_finite(inner: Optimizer, max_consecutive_errors: int) -> Optimizer:
    """`SkipNonFinite` before an optimizer, which never gives in: `max_consecutive_errors` is at least 2**31 - 1.

    >>> ao.compat.optax.apply_if_finite(ao.SGD(0.1), 2**31 - 1)
    chain(SkipNonFinite(), SGD(lr=0.1))
    """
    if max_consecutive_errors < _FOREVER:
        raise ValueError(
            f"max_consecutive_errors is {max_consecutive_errors}; wanted at least {_FOREVER}: what is not finite is "
            "never applied here"
        )
    return chained(SkipNonFinite(), inner)


def MultiSteps(
    opt: Optimizer,
    every_k_schedule: Any,
    use_grad_mean: bool = True,
    should_skip_update_fn: Any = None,
    accumulator_dtype: Any = "float32",
) -> Optimizer:
    """`Accumulate` before an optimizer; without `use_grad_mean` it takes the sum.

    >>> ao.compat.optax.MultiSteps(ao.SGD(0.1), 4)
    chain(Accumulate(every=4), SGD(lr=0.1))
    """
    accumulator("accumulator_dtype", accumulator_dtype)
    if should_skip_update_fn is not None:
        raise ValueError(f"should_skip_update_fn is {should_skip_update_fn!r}; wanted None, or apply_if_finite")
    return chained((Accumulate if use_grad_mean else SumAccumulate)(rate(every_k_schedule)), opt)


def lookahead(
    fast_optimizer: Optimizer, sync_period: int, slow_step_size: float, reset_state: bool = False
) -> Optimizer:
    """`Lookahead` after an optimizer: the parameters are the fast ones, `eval_params` gives the slow ones.

    >>> ao.compat.optax.lookahead(ao.SGD(0.1), 5, 0.5)
    chain(SGD(lr=0.1), Lookahead(every=5, share=0.5))
    """
    if reset_state:
        raise ValueError("reset_state is True; wanted False: the slots of the method go on as they are")
    return chained(fast_optimizer, Lookahead(sync_period, slow_step_size))


def chain(*args: Stage) -> Optimizer:
    """Transformations and an optimizer, or transformations of which one turns the direction, as one optimizer.

    optax adds what comes out, here it is subtracted: so there must be one that turns it, an optimizer,
    `scale_by_learning_rate`, or `scale` by a negative number.

    Raises ValueError where there is none, and for `add_decayed_weights` after it, which would make parameters grow.

    >>> from anyoptim.compat import optax
    >>> optax.chain(optax.clip(1.0), optax.trace(0.9), optax.scale_by_learning_rate(0.1))
    chain(ClipValue(limit=1.0), Trace(momentum=0.9), SGD(lr=0.1))
    """
    turns = [i for i, stage in enumerate(args) if isinstance(stage, Optimizer)]
    if not turns:
        turns = [i for i, stage in enumerate(args) if isinstance(stage, _Down) or _negative(stage)][-1:]
    if not turns:
        raise ValueError(
            f"chain was given {[*args]}, with which parameters climb; wanted an optimizer or scale_by_learning_rate"
        )
    at = turns[0]
    return chained(
        *(Scale(_times(-1.0, stage)) if isinstance(stage, _Down) else stage for stage in args[:at]),
        _method(args[at]),
        *map(_after, args[at + 1 :]),
    )


def _negative(stage: Any) -> bool:
    return isinstance(stage, Scale) and isinstance(stage.factor, int | float) and stage.factor < 0


def _method(stage: Any) -> Stage:
    if isinstance(stage, Optimizer):
        return stage
    factor: Any = vars(stage)["factor"]
    return SGD(factor if isinstance(stage, _Down) else -factor)


def _after(stage: Stage) -> Stage:
    """The stage that does the same to steps, which are subtracted here."""
    if isinstance(stage, WeightDecay):
        raise ValueError(
            f"{stage!r} comes after the direction has turned, where parameters would grow by it; wanted it before"
        )
    if isinstance(stage, Mean):
        raise ValueError(f"{stage!r} comes after the direction has turned; wanted it before")
    if isinstance(stage, _Down):
        return Scale(_times(-1.0, stage))
    if type(stage) in {Trace, NesterovTrace}:
        momentum: Any = vars(stage)["momentum"]
        return (NesterovStepTrace if isinstance(stage, NesterovTrace) else StepTrace)(momentum)
    return stage


def _times(a: float, stage: Any) -> Hyper:
    return Product(a, stage.factor) if callable(stage.factor) else a * stage.factor
