"""The optimizers of Keras: its names, parameters, order and defaults, over the methods and stages here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from anyoptim import optimizers as methods
from anyoptim._core._chain import chain, partition
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Hyper
from anyoptim._trace._scalars import where
from anyoptim.compat._counts import Product
from anyoptim.compat.keras._general import General, Options, constructor, times
from anyoptim.compat.keras._variants import KerasAdafactor, KerasMuon, KerasNesterovMuon, KerasScheduleFreeAdamW
from anyoptim.stages import Scale, Trace, TrustRatio, WeightDecay

__all__ = [
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lamb",
    "Lion",
    "Muon",
    "Nadam",
    "RMSprop",
    "ScheduleFreeAdamW",
]


def _loss(lr: Any, weight_decay: float | None) -> Hyper | None:
    return None if weight_decay is None else times(lr, weight_decay)


def _left(loss: Any) -> Hyper:
    """What a decay leaves of the parameter."""
    return _Left(loss) if callable(loss) else abs(1 - loss)


@dataclass(frozen=True)
class _Left:
    loss: Any

    def __call__(self, t: Any) -> Any:
        return abs(1 - self.loss(t))


def _adam(
    general: General,
    learning_rate: Any,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    amsgrad: bool,
    weight_decay: float | None,
) -> Optimizer:
    lr = general.rate(learning_rate)
    if amsgrad:
        return general.around(methods.AMSGrad(lr, beta_1, beta_2, epsilon), loss=_loss(lr, weight_decay))
    if weight_decay is not None:
        return general.around(methods.AdamW(lr, beta_1, beta_2, epsilon, weight_decay))
    return general.around(methods.Adam(lr, beta_1, beta_2, epsilon))


@constructor
def SGD(
    learning_rate: Any = 0.01,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`SGD`, `Momentum` or `Nesterov`.

    >>> ao.compat.keras.SGD(0.1, momentum=0.9)
    Momentum(lr=0.1, momentum=0.9)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    loss = _loss(lr, weight_decay)
    if not momentum:
        return general.around(methods.SGD(lr), loss=loss)
    return general.around((methods.Nesterov if nesterov else methods.Momentum)(lr, momentum), loss=loss)


@constructor
def RMSprop(
    learning_rate: Any = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`RMSProp` or `CenteredRMSProp` with its eps inside the root; with momentum a `Trace` of the steps after.

    >>> ao.compat.keras.RMSprop(0.1)
    RMSProp(lr=0.1, rho=0.9, eps=0.0, eps_root=1e-07)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    method = methods.CenteredRMSProp if centered else methods.RMSProp
    trace = Trace(momentum) if momentum > 0 else None
    return general.around(method(lr, rho, 0.0, eps_root=epsilon), trace, loss=_loss(lr, weight_decay))


@constructor
def Adam(
    learning_rate: Any = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`Adam`, `AMSGrad`, or with a decay `AdamW`.

    >>> ao.compat.keras.Adam(0.1)
    Adam(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-07)
    """
    general = General(**options)
    return _adam(general, learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay)


@constructor
def AdamW(
    learning_rate: Any = 0.001,
    weight_decay: float = 0.004,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """`AdamW`, or `AMSGrad` with a decay.

    >>> ao.compat.keras.AdamW(0.1)
    AdamW(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-07, weight_decay=0.004)
    """
    general = General(**options)
    if weight_decay is None:
        raise ValueError("weight_decay is None; wanted a number")
    return _adam(general, learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay)


@constructor
def Adadelta(
    learning_rate: Any = 0.001,
    rho: float = 0.95,
    epsilon: float = 1e-7,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`AdaDelta`.

    >>> ao.compat.keras.Adadelta(0.1)
    AdaDelta(lr=0.1, rho=0.95, eps=1e-07)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    return general.around(methods.AdaDelta(lr, rho, epsilon), loss=_loss(lr, weight_decay))


@constructor
def Adagrad(
    learning_rate: Any = 0.001,
    initial_accumulator_value: float = 0.1,
    epsilon: float = 1e-7,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`AdaGrad` with its eps inside the root.

    >>> ao.compat.keras.Adagrad(0.1)
    AdaGrad(lr=0.1, eps=0.0, initial=0.1, eps_root=1e-07)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    method = methods.AdaGrad(lr, 0.0, initial=initial_accumulator_value, eps_root=epsilon)
    return general.around(method, loss=_loss(lr, weight_decay))


@constructor
def Adamax(
    learning_rate: Any = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`Adamax`.

    >>> ao.compat.keras.Adamax(0.1)
    Adamax(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-07)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    return general.around(methods.Adamax(lr, beta_1, beta_2, epsilon), loss=_loss(lr, weight_decay))


@constructor
def Adafactor(
    learning_rate: Any = 0.001,
    beta_2_decay: float = -0.8,
    epsilon_1: float = 1e-30,
    epsilon_2: float = 0.001,
    clip_threshold: float = 1.0,
    relative_step: bool = True,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`Adafactor`. Keras bounds its steps by 1/sqrt(t) with and without `relative_step`.

    >>> ao.compat.keras.Adafactor(0.1)
    Adafactor(lr=0.1, decay=0.8, eps=1e-30, floor=0.001, clip=1.0)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    own: dict[str, Any] = {
        "lr": lr,
        "decay": -beta_2_decay,
        "eps": epsilon_1,
        "floor": epsilon_2,
        "clip": clip_threshold,
    }
    if weight_decay is None:
        return general.around(methods.Adafactor(**own))
    return general.around(KerasAdafactor(loss=times(lr, weight_decay), **own))


@constructor
def Nadam(
    learning_rate: Any = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`NAdam` with Keras's momentum_decay of 1.

    >>> ao.compat.keras.Nadam(0.1)
    NAdam(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-07, momentum_decay=1.0)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    method = methods.NAdam(lr, beta_1, beta_2, epsilon, momentum_decay=1.0)
    return general.around(method, loss=_loss(lr, weight_decay))


@constructor
def Lion(
    learning_rate: Any = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`Lion`.

    >>> ao.compat.keras.Lion(0.1)
    Lion(lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.0)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    return general.around(methods.Lion(lr, beta_1, beta_2, 0.0 if weight_decay is None else weight_decay))


@constructor
def Lamb(
    learning_rate: Any = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`Adam`, `TrustRatio` and `Scale`: `LAMB` with a decay that the ratio does not scale, but takes note of.

    >>> ao.compat.keras.Lamb(0.1).update(np.ones(2), np.ones(2)).round(3)
    array([0.9, 0.9])
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    loss = _loss(lr, weight_decay)
    return general.around(
        methods.Adam(1.0, beta_1, beta_2, 0.0, eps_corrected=epsilon),
        TrustRatio(1.0 if loss is None else _left(loss)),
        Scale(lr),
        loss=loss,
    )


@constructor
def Muon(
    learning_rate: Any = 0.001,
    adam_beta_1: float = 0.9,
    adam_beta_2: float = 0.999,
    adam_weight_decay: float | None = 0.004,
    epsilon: float = 1e-7,
    weight_decay: float | None = 0.004,
    *,
    exclude_layers: Sequence[str] | None = None,
    exclude_embeddings: bool = True,
    muon_a: float = 3.4445,
    muon_b: float = -4.775,
    muon_c: float = 2.0315,
    adam_lr_ratio: float = 1,
    momentum: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    rms_rate: float | None = 0.2,
    **options: Unpack[Options],
) -> Optimizer:
    """A `partition`: matrices to Keras's Muon, by sums of gradients, others to `Adam`, both with decays.

    `exclude_layers` and `exclude_embeddings` are about the paths of parameters, keys joined by dots.

    >>> ao.compat.keras.Muon(0.1).update(np.eye(2), np.eye(2)).round(3)
    array([[0.968, 0.   ],
           [0.   , 0.968]])
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    direction = (KerasNesterovMuon if nesterov else KerasMuon)(
        lr, momentum, 0.0 if rms_rate is None else rms_rate, ns_steps, muon_a, muon_b, muon_c
    )
    adam = methods.Adam(times(lr, adam_lr_ratio), adam_beta_1, adam_beta_2, epsilon)
    both = (direction, weight_decay), (adam, adam_weight_decay)
    of_matrices, of_others = (
        method if decay is None else chain(method, WeightDecay(times(lr, decay))) for method, decay in both
    )
    chosen = _Matrices(tuple(exclude_layers or ()), exclude_embeddings)
    return general.around(partition({chosen: of_matrices, ...: of_others}))


@dataclass(frozen=True)
class _Matrices:
    """Which parameters Muon is for."""

    exclude_layers: tuple[str, ...]
    exclude_embeddings: bool

    def __call__(self, path: str, p: Any) -> bool:
        if len(p.shape) != 2 or (self.exclude_embeddings and "embedding" in path.lower()):
            return False
        return not any(re.search(pattern, path) for pattern in self.exclude_layers)


@constructor
def ScheduleFreeAdamW(
    learning_rate: Any = 0.0025,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    warmup_steps: int = 0,
    weight_decay: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    """`ScheduleFreeAdamW` whose average weighs all steps alike.

    >>> ao.compat.keras.ScheduleFreeAdamW(0.1)
    KerasScheduleFreeAdamW(lr=0.1, beta=0.9, beta2=0.999, eps=1e-08, weight_decay=0.0)
    """
    general = General(**options)
    lr = general.rate(learning_rate)
    warmed = times(lr, _Warmup(warmup_steps)) if warmup_steps > 0 else lr
    loss = None if weight_decay is None else Product(times(lr, weight_decay), _Old())
    return general.around(KerasScheduleFreeAdamW(warmed, beta_1, beta_2, epsilon), loss=loss)


@dataclass(frozen=True)
class _Warmup:
    """From 1/steps to 1 along a line."""

    steps: int

    def __call__(self, t: Any) -> Any:
        return where(t < self.steps, t / self.steps, 1.0)


@dataclass(frozen=True)
class _Old:
    """The share of the average that is not of this step."""

    def __call__(self, t: Any) -> Any:
        return 1 - 1 / t
