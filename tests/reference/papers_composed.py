"""The methods that measure, that keep numbers or that see whole arrays, in the order and the variables of their papers.

Float64 NumPy, with nothing of anyoptim's in it but the random numbers, which `SGLD` is given. Each takes parameters
and gradients in dicts, in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


def norm(a: Any) -> float:
    """The 2-norm of all elements."""
    return math.sqrt(math.fsum(float(x) * float(x) for x in np.ravel(a)))


class LARS:
    """You, Gitman and Ginsburg 2017, algorithm 1: its local learning rate, then momentum. eps is not the paper's."""

    def __init__(self, lr: float, momentum: float, weight_decay: float, trust: float, eps: float) -> None:
        self.gamma, self.m, self.beta, self.eta, self.eps = lr, momentum, weight_decay, trust, eps
        self.v: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key, w in params.items():
            g = grads[key]
            local = 1.0
            if norm(w) > 0 and norm(g) > 0:
                local = self.eta * norm(w) / (norm(g) + self.beta * norm(w) + self.eps)
            self.v[key] = self.m * self.v.get(key, 0.0) + self.gamma * local * (g + self.beta * w)
            params[key] = w - self.v[key]


class LAMB:
    """You et al. 2020, algorithm 2, with phi the least of the norm and a bound."""

    def __init__(
        self, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, upper: float = math.inf
    ) -> None:
        self.eta, self.beta1, self.beta2, self.eps, self.decay, self.upper = lr, beta1, beta2, eps, weight_decay, upper
        self.t = 0
        self.m: Arrays = {}
        self.v: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.t += 1
        for key, x in params.items():
            g = grads[key]
            self.m[key] = self.beta1 * self.m.get(key, 0.0) + (1 - self.beta1) * g
            self.v[key] = self.beta2 * self.v.get(key, 0.0) + (1 - self.beta2) * g**2
            m_hat = self.m[key] / (1 - self.beta1**self.t)
            v_hat = self.v[key] / (1 - self.beta2**self.t)
            r = m_hat / (np.sqrt(v_hat) + self.eps) + self.decay * x
            phi = min(norm(x), self.upper)
            ratio = phi / norm(r) if phi > 0 and norm(r) > 0 else 1.0
            params[key] = x - self.eta * ratio * r


class _ScheduleFree:
    """The base of both: x, y and z are each kept, as the paper writes them."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.t, self.weights = 0, 0.0
        self.x: Arrays = {}
        self.z: Arrays = {}

    def begin(self, params: Arrays) -> None:
        if not self.t:
            self.x = {key: y.copy() for key, y in params.items()}
            self.z = {key: y.copy() for key, y in params.items()}
        self.t += 1

    def average(self, params: Arrays, gamma: float) -> None:
        self.weights += gamma**2
        c = gamma**2 / self.weights if self.weights > 0 else 0.0
        for key in params:
            self.x[key] = (1 - c) * self.x[key] + c * self.z[key]
            params[key] = (1 - self.beta) * self.z[key] + self.beta * self.x[key]


class ScheduleFreeSGD(_ScheduleFree):
    """Defazio et al. 2024, equations 3 to 5, with the weights of algorithm 1."""

    def __init__(self, lr: Any, beta: float, weight_decay: float) -> None:
        super().__init__(beta)
        self.lr, self.decay = lr, weight_decay

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.begin(params)
        gamma = self.lr(self.t) if callable(self.lr) else self.lr
        for key, y in params.items():
            self.z[key] = self.z[key] - gamma * (grads[key] + self.decay * y)
        self.average(params, gamma)


class ScheduleFreeAdamW(_ScheduleFree):
    """Defazio et al. 2024, algorithm 1; its warmup is a schedule of lr."""

    def __init__(self, lr: Any, beta: float, beta2: float, eps: float, weight_decay: float) -> None:
        super().__init__(beta)
        self.lr, self.beta2, self.eps, self.decay = lr, beta2, eps, weight_decay
        self.v: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.begin(params)
        lr = self.lr(self.t) if callable(self.lr) else self.lr
        gamma = lr * math.sqrt(1 - self.beta2**self.t)
        for key, y in params.items():
            g = grads[key]
            self.v[key] = self.beta2 * self.v.get(key, 0.0) + (1 - self.beta2) * g**2
            self.z[key] = self.z[key] - gamma * g / (np.sqrt(self.v[key]) + self.eps) - gamma * self.decay * y
        self.average(params, gamma)


class Prodigy:
    """Mishchenko and Defazio 2024, algorithm 4, d estimated at the end of each step; the decay is that of AdamW."""

    def __init__(
        self,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        d0: float = 1e-6,
        growth: float = 1.0,
    ) -> None:
        self.gamma, self.beta1, self.beta2, self.eps, self.decay = lr, beta1, beta2, eps, weight_decay
        self.d, self.growth, self.r = d0, growth, 0.0
        self.x0: Arrays = {}
        self.m: Arrays = {}
        self.v: Arrays = {}
        self.s: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        if not self.x0:
            self.x0 = {key: x.copy() for key, x in params.items()}
        root, d = math.sqrt(self.beta2), self.d
        for key, g in grads.items():
            self.m[key] = self.beta1 * self.m.get(key, 0.0) + (1 - self.beta1) * d * g
            self.v[key] = self.beta2 * self.v.get(key, 0.0) + (1 - self.beta2) * d**2 * g**2
            self.s[key] = root * self.s.get(key, 0.0) + (1 - root) * self.gamma * d**2 * g
        along = math.fsum(float(a) for key, g in grads.items() for a in np.ravel(g * (self.x0[key] - params[key])))
        self.r = root * self.r + (1 - root) * self.gamma * d**2 * along
        total = math.fsum(float(abs(a)) for s in self.s.values() for a in np.ravel(s))
        for key, x in params.items():
            step = self.m[key] / (np.sqrt(self.v[key]) + d * self.eps)
            params[key] = x - self.gamma * d * step - self.gamma * d * self.decay * x
        self.d = max(d, self.growth * self.r / total) if total > 0 else d


class Adafactor:
    """Shazeer and Stern 2018, algorithm 4 (matrices) and 5 (vectors), with sums over rows and columns.

    And the lower bounds and the decay that torch's documentation adds.
    """

    def __init__(
        self, lr: float, decay: float, eps: float, floor: float, clip: float, least: float, weight_decay: float
    ) -> None:
        self.lr, self.decay, self.eps1, self.eps2, self.d = lr, decay, eps, floor, clip
        self.least, self.weight_decay = least, weight_decay
        self.t = 0
        self.R: Arrays = {}
        self.C: Arrays = {}
        self.V: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.t += 1
        beta2 = 1 - self.t ** (-self.decay)
        for key, X in params.items():
            G = grads[key]
            alpha = max(self.eps2, math.sqrt(norm(X) ** 2 / X.size)) * min(self.lr, 1 / math.sqrt(self.t))
            S = G**2 + self.eps1
            if X.ndim < 2:
                V = self.V[key] = beta2 * self.V.get(key, 0.0) + (1 - beta2) * S
            else:
                self.R[key] = beta2 * self.R.get(key, 0.0) + (1 - beta2) * S.sum(-1, keepdims=True)
                self.C[key] = beta2 * self.C.get(key, 0.0) + (1 - beta2) * S.sum(-2, keepdims=True)
                mean = self.R[key].sum(-2, keepdims=True) / math.prod(X.shape[-2:])
                V = self.R[key] @ self.C[key] / math.prod(X.shape[-2:]) / np.maximum(mean, self.least)
            U = G / np.sqrt(np.maximum(V, self.least**2))
            U = U / max(1.0, math.sqrt(norm(U) ** 2 / U.size) / self.d)
            params[key] = (1 - self.lr * self.weight_decay) * X - alpha * U


class Muon:
    """Jordan et al. 2024, algorithm 2 with Nesterov's momentum, whose buffer is a sum and no mean.

    The sum is 1/(1-momentum) times the mean, and so are eps beside its norm and the least that this may be.
    """

    def __init__(
        self,
        lr: float,
        momentum: float,
        weight_decay: float,
        steps: int = 5,
        eps: float = 1e-7,
        least: float = 0.0,
        ahead: float = 1.0,
        rms: float = 0.0,
        a: float = 3.4445,
        b: float = -4.775,
        c: float = 2.0315,
    ) -> None:
        self.lr, self.mu, self.decay, self.steps, self.eps = lr, momentum, weight_decay, steps, eps
        self.least, self.ahead, self.rms, self.polynomial = least, ahead, rms, (a, b, c)
        self.B: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key, W in params.items():
            G = grads[key].reshape(len(W), -1)
            self.B[key] = self.mu * self.B.get(key, 0.0) + G
            X = self.ahead * G + (1 - self.ahead * (1 - self.mu)) * self.B[key]
            X = X / (max(norm(X), self.least / (1 - self.mu)) + self.eps / (1 - self.mu))
            n, m = X.shape
            a, b, c = self.polynomial
            scale = self.rms * math.sqrt(max(n, m)) if self.rms else math.sqrt(max(1, n / m))
            for _ in range(self.steps):
                # The paper's odd polynomial, here from the other side of the matrix.
                A = X.T @ X
                X = X @ (a * np.eye(m) + b * A + c * A @ A)
            params[key] = (1 - self.lr * self.decay) * W - self.lr * scale * X.reshape(W.shape)


class Shampoo:
    """Gupta, Koren and Singer 2018, algorithm 1: epsilon in the first L and R, roots by singular values."""

    def __init__(self, lr: float, eps: float) -> None:
        self.eta, self.epsilon = lr, eps
        self.L: Arrays = {}
        self.R: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key, W in params.items():
            G = grads[key].reshape(len(W), -1)
            n, m = G.shape
            self.L[key] = self.L.get(key, self.epsilon * np.eye(n)) + G @ G.T
            self.R[key] = self.R.get(key, self.epsilon * np.eye(m)) + G.T @ G
            step = self.power(self.L[key]) @ G @ self.power(self.R[key])
            params[key] = W - self.eta * step.reshape(W.shape)

    @staticmethod
    def power(a: Any) -> Any:
        u, s, vt = np.linalg.svd(a)
        return u * s**-0.25 @ vt


class SGLD:
    """Welling and Teh 2011, equation 4: half of epsilon times the gradient, noise of the variance epsilon."""

    def __init__(self, lr: float, temperature: float, noise: Callable[[str, int], Any]) -> None:
        self.epsilon, self.temperature, self.noise = 2 * lr, temperature, noise
        self.t = 0

    def update(self, params: Arrays, grads: Arrays) -> None:
        self.t += 1
        for key, theta in params.items():
            eta = math.sqrt(self.epsilon * self.temperature) * self.noise(key, self.t)
            params[key] = theta - self.epsilon / 2 * grads[key] + eta


METHODS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (LARS, LAMB, ScheduleFreeSGD, ScheduleFreeAdamW, Prodigy, Adafactor, Muon, Shampoo, SGLD)
}
