"""Methods and stages as their papers' pseudocode has them, in plain float64, element by element where it says so.

In the form of tests/reference/textbook.py, but for the order of operations, which is the papers'. Nothing of
anyoptim's is in it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


class Signum:
    """Bernstein et al., signSGD: compressed optimisation for non-convex problems, 2018, algorithm 2."""

    def __init__(self, lr: float, momentum: float) -> None:
        self.delta, self.beta = lr, momentum
        self.m: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key, g in grads.items():
            self.m[key] = self.beta * self.m.get(key, 0 * g) + (1 - self.beta) * g
            params[key] = params[key] - self.delta * np.sign(self.m[key])


class Lion:
    """Chen et al., Symbolic discovery of optimization algorithms, 2023, algorithm 2."""

    def __init__(self, lr: float, beta1: float, beta2: float, weight_decay: float) -> None:
        self.eta, self.beta1, self.beta2, self.decay = lr, beta1, beta2, weight_decay
        self.m: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key, g in grads.items():
            m = self.m.get(key, 0 * g)
            c = self.beta1 * m + (1 - self.beta1) * g
            params[key] = params[key] - self.eta * (np.sign(c) + self.decay * params[key])
            self.m[key] = self.beta2 * m + (1 - self.beta2) * g


class Rprop:
    """Igel and Hüsken, Empirical evaluation of the improved Rprop learning algorithms, 2003, iRprop-: weight by weight.

    `lr` is a factor that the paper has not.
    """

    def __init__(
        self, lr: float, eta_minus: float, eta_plus: float, step_min: float, step_max: float, initial: float
    ) -> None:
        self.lr, self.eta_minus, self.eta_plus = lr, eta_minus, eta_plus
        self.least, self.most, self.first = step_min, step_max, initial
        self.before: dict[tuple[str, int], float] = {}
        self.delta: dict[tuple[str, int], float] = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key, g in grads.items():
            w = params[key].ravel().copy()
            for i, gradient in enumerate(g.ravel().tolist()):
                slope, delta = gradient, self.delta.get((key, i), self.first)
                turn = self.before.get((key, i), 0.0) * slope
                if turn > 0:
                    delta = min(delta * self.eta_plus, self.most)
                elif turn < 0:
                    delta = max(delta * self.eta_minus, self.least)
                    slope = 0.0
                w[i] -= self.lr * math.copysign(delta, slope) if slope else 0.0
                self.delta[key, i], self.before[key, i] = delta, slope
            params[key] = w.reshape(g.shape)


class ASGD:
    """Xu, Towards optimal one pass large scale learning with averaged stochastic gradient descent, 2011.

    eta_t = eta_0 * (1 + lambda*eta_0*t)**(-alpha), t from 0, for a loss with lambda/2*|w|**2 in it; the average is
    taken as what it is, the mean of all points after t0.
    """

    def __init__(self, lr: float, lambd: float, alpha: float, t0: int) -> None:
        self.lr, self.lambd, self.alpha, self.t0 = lr, lambd, alpha, t0
        self.t = 0
        self.after: list[Arrays] = []
        self.average: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        eta = self.lr * (1 + self.lambd * self.lr * self.t) ** -self.alpha
        for key, g in grads.items():
            params[key] = (1 - self.lambd * eta) * params[key] - eta * g
        if self.t > self.t0:
            self.after.append(dict(params))
        seen = self.after or [params]
        self.average = {key: np.mean([p[key] for p in seen], axis=0) for key in params}
        self.t += 1


class AdaGrad:
    """Duchi, Hazan and Singer, Adaptive subgradient methods for online learning, 2011, figure 1, the diagonal form.

    s_t is the norm of all gradients so far, and H_t = delta + s_t. `initial`, `eps_root` and `lr_decay` are not the
    paper's: squares of a gradient before the first, what is added to the sum within the norm, and torch's schedule.
    """

    def __init__(self, lr: float, eps: float, initial: float, eps_root: float, lr_decay: float) -> None:
        self.lr, self.delta, self.more, self.decay = lr, eps, initial + eps_root, lr_decay
        self.seen: list[Arrays] = []

    def update(self, params: Arrays, grads: Arrays) -> None:
        eta = self.lr / (1 + len(self.seen) * self.decay)
        self.seen.append({key: g.copy() for key, g in grads.items()})
        for key, g in grads.items():
            s = np.sqrt(self.more + np.sum([old[key] ** 2 for old in self.seen], axis=0))
            params[key] = params[key] - eta * g / (self.delta + s)


class SWA:
    """Izmailov et al., Averaging weights leads to wider optima and better generalization, 2018, algorithm 1."""

    def __init__(self, lr: float, every: int) -> None:
        self.lr, self.c = lr, every
        self.i = 0
        self.average: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        if not self.i:
            self.average = dict(params)
        self.i += 1
        for key, g in grads.items():
            params[key] = params[key] - self.lr * g
        if self.i % self.c == 0:
            n = self.i // self.c
            self.average = {key: (self.average[key] * n + w) / (n + 1) for key, w in params.items()}


class Lookahead:
    """Zhang et al., Lookahead optimizer: k steps forward, 1 step back, 2019, algorithm 1, over gradient descent."""

    def __init__(self, lr: float, every: int, share: float) -> None:
        self.lr, self.k, self.alpha = lr, every, share
        self.i = 0
        self.slow: Arrays = {}

    def update(self, params: Arrays, grads: Arrays) -> None:
        if not self.i:
            self.slow = dict(params)
        self.i += 1
        for key, g in grads.items():
            params[key] = params[key] - self.lr * g
        if self.i == self.k * (self.i // self.k):
            self.slow = {key: self.slow[key] + self.alpha * (params[key] - self.slow[key]) for key in params}
            params.update(self.slow)


class Projected:
    """Goldstein, Convex programming in Hilbert space, 1964: a step, then the nearest point allowed."""

    def __init__(self, lr: float, lo: float, hi: float) -> None:
        self.lr, self.lo, self.hi = lr, lo, hi

    def update(self, params: Arrays, grads: Arrays) -> None:
        for key, g in grads.items():
            params[key] = np.vectorize(self.nearest, otypes=[float])(params[key] - self.lr * g)

    def nearest(self, x: float) -> float:
        return self.lo if x < self.lo else self.hi if x > self.hi else x


METHODS: dict[str, Any] = {method.__name__: method for method in (AdaGrad, ASGD, Lion, Rprop, Signum)}

STAGES: dict[str, Any] = {stage.__name__: stage for stage in (SWA, Lookahead, Projected)}
"""Stages that these papers state over gradient descent."""
