"""The optimizers and Dropout as everybody writes them: the table of the systems, transcribed in plain NumPy.

Each class has the form of the public from-scratch courses: parameters and gradients in dicts, one loop over
keys, in place. Nothing here is imported from anyoptim. The benchmarks time anyoptim against these.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


class SGD:
    def __init__(self, lr: float = 0.01) -> None:
        self.lr = lr

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key in params:
            params[key] -= self.lr * grads[key]


class Momentum:
    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.v is None:
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.v[key] = self.momentum * self.v[key] - self.lr * grads[key]
            params[key] += self.v[key]


class AdaGrad:
    def __init__(
        self,
        lr: float = 0.01,
        eps: float = 1e-7,
        initial: float = 0.0,
        eps_root: float = 0.0,
        lr_decay: float = 0.0,
    ) -> None:
        self.lr = lr
        self.eps = eps
        self.initial = initial
        self.eps_root = eps_root
        self.lr_decay = lr_decay
        self.iter = 0
        self.h: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.h is None:
            self.h = {key: np.full_like(value, self.initial) for key, value in params.items()}
        self.iter += 1
        lr_t = self.lr / (1 + (self.iter - 1) * self.lr_decay)
        for key in params:
            self.h[key] += grads[key] * grads[key]
            params[key] -= lr_t * grads[key] / (np.sqrt(self.h[key] + self.eps_root) + self.eps)


class Adam:
    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-7) -> None:
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.iter = 0
        self.m: Arrays | None = None
        self.v: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.m is None or self.v is None:
            self.m = {key: np.zeros_like(value) for key, value in params.items()}
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        self.iter += 1
        lr_t = self.lr * np.sqrt(1.0 - self.beta2**self.iter) / (1.0 - self.beta1**self.iter)
        # A NumPy float64 scalar would turn float32 arrays into float64.
        lr_t = float(lr_t)
        for key in params:
            self.m[key] += (1 - self.beta1) * (grads[key] - self.m[key])
            self.v[key] += (1 - self.beta2) * (grads[key] * grads[key] - self.v[key])
            params[key] -= lr_t * self.m[key] / (np.sqrt(self.v[key]) + self.eps)


class Nesterov:
    """Bengio et al. 2013, equation 7, as in Keras."""

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.v is None:
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.v[key] = self.momentum * self.v[key] - self.lr * grads[key]
            params[key] -= self.lr * grads[key] - self.momentum * self.v[key]


class TextbookNesterov:
    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum
        self.v: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.v is None:
            self.v = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.v[key] = self.momentum * self.v[key] - self.lr * grads[key]
            params[key] -= (1 + self.momentum) * self.lr * grads[key] - self.momentum * self.momentum * self.v[key]


class HeavyBall:
    nesterov = False

    def __init__(self, lr: float = 0.01, momentum: float = 0.9, dampening: float = 0.0) -> None:
        self.lr = lr
        self.momentum = momentum
        self.dampening = dampening
        self.b: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        first = self.b is None
        if self.b is None:
            self.b = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.b[key] = self.momentum * self.b[key] + (1.0 if first else 1 - self.dampening) * grads[key]
            ahead = grads[key] + self.momentum * self.b[key] if self.nesterov else self.b[key]
            params[key] -= self.lr * ahead


class HeavyBallNesterov(HeavyBall):
    nesterov = True


class RMSProp:
    def __init__(self, lr: float = 0.01, rho: float = 0.99, eps: float = 1e-7, eps_root: float = 0.0) -> None:
        self.lr = lr
        self.rho = rho
        self.eps = eps
        self.eps_root = eps_root
        self.h: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.h is None:
            self.h = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.h[key] = self.rho * self.h[key] + (1 - self.rho) * grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key] + self.eps_root) + self.eps)


class CenteredRMSProp(RMSProp):
    """The variance is kept, which is never the difference of two means."""

    m: Arrays

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.h is None:
            self.h = {key: np.zeros_like(value) for key, value in params.items()}
            self.m = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            d = grads[key] - self.m[key]
            self.h[key] = self.rho * (self.h[key] + (1 - self.rho) * d * d)
            self.m[key] = self.rho * self.m[key] + (1 - self.rho) * grads[key]
            params[key] -= self.lr * grads[key] / (np.sqrt(self.h[key] + self.eps_root) + self.eps)


class AdaDelta:
    def __init__(self, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6) -> None:
        self.lr = lr
        self.rho = rho
        self.eps = eps
        self.h: Arrays | None = None
        self.s: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.h is None or self.s is None:
            self.h = {key: np.zeros_like(value) for key, value in params.items()}
            self.s = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.h[key] = self.rho * self.h[key] + (1 - self.rho) * grads[key] * grads[key]
            d = np.sqrt(self.s[key] + self.eps) / np.sqrt(self.h[key] + self.eps) * grads[key]
            self.s[key] = self.rho * self.s[key] + (1 - self.rho) * d * d
            params[key] -= self.lr * d


class Signum:
    def __init__(self, lr: float = 1e-4, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum
        self.m: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.m is None:
            self.m = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            self.m[key] = self.momentum * self.m[key] + (1 - self.momentum) * grads[key]
            params[key] -= self.lr * np.sign(self.m[key])


class Lion:
    def __init__(self, lr: float = 1e-4, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.0) -> None:
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        self.weight_decay = weight_decay
        self.m: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.m is None:
            self.m = {key: np.zeros_like(value) for key, value in params.items()}
        for key in params:
            c = self.beta1 * self.m[key] + (1 - self.beta1) * grads[key]
            self.m[key] = self.beta2 * self.m[key] + (1 - self.beta2) * grads[key]
            params[key] -= self.lr * np.sign(c) + self.lr * self.weight_decay * params[key]


class Rprop:
    def __init__(
        self,
        lr: float = 1.0,
        eta_minus: float = 0.5,
        eta_plus: float = 1.2,
        step_min: float = 1e-6,
        step_max: float = 50.0,
        initial: float = 0.01,
    ) -> None:
        self.lr = lr
        self.eta_minus = eta_minus
        self.eta_plus = eta_plus
        self.step_min = step_min
        self.step_max = step_max
        self.initial = initial
        self.d: Arrays | None = None
        self.s: Arrays | None = None

    def update(self, params: Arrays, grads: Arrays) -> None:
        if self.d is None or self.s is None:
            self.d = {key: np.zeros_like(value) for key, value in params.items()}
            self.s = {key: np.full_like(value, self.initial) for key, value in params.items()}
        for key in params:
            same = np.sign(grads[key]) * self.d[key]
            longer, shorter = self.eta_plus * self.s[key], self.eta_minus * self.s[key]
            self.s[key] = np.where(same > 0, longer, np.where(same < 0, shorter, self.s[key]))
            self.s[key] = np.clip(self.s[key], self.step_min, self.step_max)
            self.d[key] = np.where(same < 0, 0.0, np.sign(grads[key]))
            params[key] -= self.lr * (self.s[key] * self.d[key])


class ASGD:
    def __init__(self, lr: float = 0.01, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6) -> None:
        self.lr = lr
        self.lambd = lambd
        self.alpha = alpha
        self.t0 = t0
        self.iter = 0
        self.average: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.iter += 1
        eta = self.lr / (1 + self.lambd * self.lr * (self.iter - 1)) ** self.alpha
        mu = 1 / max(1, self.iter - 1 - self.t0)
        for key in params:
            params[key] -= eta * (grads[key] + self.lambd * params[key])
            if mu == 1:
                self.average[key] = params[key].copy()
            else:
                self.average[key] += mu * (params[key] - self.average[key])


class Dropout:
    def __init__(self, dropout_ratio: float = 0.5) -> None:
        self.dropout_ratio = dropout_ratio
        self.mask: np.ndarray[Any, Any] | None = None

    def forward(self, x: Any, training: bool = True) -> Any:
        if training:
            self.mask = np.random.rand(*x.shape) > self.dropout_ratio
            return x * self.mask
        return x * (1.0 - self.dropout_ratio)

    def backward(self, dout: Any) -> Any:
        assert self.mask is not None
        return dout * self.mask


METHODS: dict[str, Any] = {
    method.__name__: method
    for method in (
        SGD,
        Momentum,
        Nesterov,
        TextbookNesterov,
        HeavyBall,
        HeavyBallNesterov,
        AdaGrad,
        RMSProp,
        CenteredRMSProp,
        AdaDelta,
        Adam,
        Signum,
        Lion,
        Rprop,
        ASGD,
    )
}
