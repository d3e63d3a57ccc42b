"""Methods as their papers state them: in the order and the variables of the pseudocode, in float64 NumPy.

Each algorithm is a generator that is given its parameter, then gradient after gradient, and gives the parameter after
each. Nothing here is imported from anyoptim, and nothing is rearranged as its rules are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from decimal import Decimal
from functools import partial
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Generator[Array, Array, None]


class Paper:
    """An algorithm for each of some parameters. Its hyperparameters are attributes, read at every step."""

    def __init__(self, algorithm: Callable[[Array, Any], Run], **hyperparameters: float) -> None:
        self._algorithm = algorithm
        self._runs: dict[str, Run] = {}
        self.__dict__.update(hyperparameters)

    def update(self, params: dict[str, Any], grads: dict[str, Any]) -> None:
        for key, p in params.items():
            if key not in self._runs:
                self._runs[key] = self._algorithm(p.copy(), self)
                next(self._runs[key])
            p[...] = self._runs[key].send(grads[key])


def adam(theta: Array, h: Any) -> Run:
    """Kingma and Ba 2015, algorithm 1, whose epsilon is eps_corrected; optax's eps_root; eps in its units."""
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t = t + 1
        m = h.beta1 * m + (1 - h.beta1) * g
        v = h.beta2 * v + (1 - h.beta2) * g**2
        m_hat = m / (1 - h.beta1**t)
        v_hat = v / (1 - h.beta2**t)
        epsilon = h.eps_corrected + h.eps / math.sqrt(1 - h.beta2**t)
        theta = theta - h.lr * m_hat / (np.sqrt(v_hat + h.eps_root) + epsilon)


def adamw(theta: Array, h: Any) -> Run:
    """Loshchilov and Hutter 2019, algorithm 2, with lr in the place of both alpha and the schedule multiplier."""
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t = t + 1
        m = h.beta1 * m + (1 - h.beta1) * g
        v = h.beta2 * v + (1 - h.beta2) * g**2
        m_hat = m / (1 - h.beta1**t)
        v_hat = v / (1 - h.beta2**t)
        epsilon = h.eps_corrected + h.eps / math.sqrt(1 - h.beta2**t)
        theta = theta - h.lr * (m_hat / (np.sqrt(v_hat + h.eps_root) + epsilon) + h.weight_decay * theta)


def amsgrad(x: Array, h: Any) -> Run:
    """Reddi, Kale and Kumar 2018, algorithm 2, with an alpha_t that has Adam's corrections; decay as torch's AdamW."""
    m, v, v_hat, t = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x), 0
    while True:
        g = yield x
        t = t + 1
        m = h.beta1 * m + (1 - h.beta1) * g
        v = h.beta2 * v + (1 - h.beta2) * g**2
        v_hat = np.maximum(v_hat, v)
        correction = 1 - h.beta2**t
        alpha = h.lr * math.sqrt(correction) / (1 - h.beta1**t)
        epsilon = h.eps + h.eps_corrected * math.sqrt(correction)
        step = alpha * m / (np.sqrt(v_hat + h.eps_root * correction) + epsilon)
        x = (1 - h.lr * h.weight_decay) * x - step


def corrected_amsgrad(x: Array, h: Any) -> Run:
    """The same algorithm 2, of moments that are corrected before the maximum is taken: optax's documentation."""
    m, v, v_hat, t = np.zeros_like(x), np.zeros_like(x), np.zeros_like(x), 0
    while True:
        g = yield x
        t = t + 1
        m = h.beta1 * m + (1 - h.beta1) * g
        v = h.beta2 * v + (1 - h.beta2) * g**2
        v_hat = np.maximum(v_hat, v / (1 - h.beta2**t))
        x = x - h.lr * (m / (1 - h.beta1**t)) / (np.sqrt(v_hat + h.eps_root) + h.eps)


def adamax(theta: Array, h: Any) -> Run:
    """Kingma and Ba 2015, algorithm 2, with both places where libraries have an epsilon."""
    m, u, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t = t + 1
        m = h.beta1 * m + (1 - h.beta1) * g
        u = np.maximum(h.beta2 * u, np.abs(g) + h.eps_max)
        theta = theta - (h.lr / (1 - h.beta1**t)) * m / (u + h.eps)


def nadam(theta: Array, h: Any) -> Run:
    """Dozat 2016, algorithm 2, by running products; the mean m by a constant mu, and no factor nu to the corrected n.

    The schedule of mu is that of the experiments in Sutskever et al. that the paper gives as an example; the decay is
    where torch has it, before the step.
    """
    m, n, t, product = np.zeros_like(theta), np.zeros_like(theta), 0, 1.0
    while True:
        g = yield theta
        t = t + 1
        mu, mu_next = (h.beta1 * (1 - h.warmup * 0.96 ** (i * h.momentum_decay)) for i in (t, t + 1))
        product = product * mu
        g_hat = g / (1 - product)
        m = h.beta1 * m + (1 - h.beta1) * g
        m_hat = m / (1 - product * mu_next)
        n = h.beta2 * n + (1 - h.beta2) * g**2
        n_hat = n / (1 - h.beta2**t)
        m_bar = (1 - mu) * g_hat + mu_next * m_hat
        theta = (1 - h.lr * h.weight_decay) * theta - h.lr * m_bar / (np.sqrt(n_hat + h.eps_root) + h.eps)


def radam(theta: Array, h: Any) -> Run:
    """Liu et al. 2020, algorithm 2, with an epsilon beside the root of v, and decay where torch has it.

    rho is evaluated in decimals: what remains of the difference of 1999 and 1994 has an error of 1e-12 in float64.
    """
    m, v, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t = t + 1
        beta2 = Decimal(h.beta2)
        rho_inf = 2 / (1 - beta2) - 1
        m = h.beta1 * m + (1 - h.beta1) * g
        v = h.beta2 * v + (1 - h.beta2) * g**2
        m_hat = m / (1 - h.beta1**t)
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho > Decimal(h.threshold) and rho > 4:
            correction = 1 - h.beta2**t
            epsilon = h.eps + h.eps_corrected * math.sqrt(correction)
            l = math.sqrt(correction) / (np.sqrt(v + h.eps_root * correction) + epsilon)  # noqa: E741 - the paper's
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            step = h.lr * r * m_hat * l
        else:
            step = h.lr * m_hat
        theta = (1 - h.lr * h.weight_decay) * theta - step


def adabelief(theta: Array, h: Any) -> Run:
    """Zhuang et al. 2020, algorithm 2, whose two epsilons are two numbers here."""
    m, s, t = np.zeros_like(theta), np.zeros_like(theta), 0
    while True:
        g = yield theta
        t = t + 1
        m = h.beta1 * m + (1 - h.beta1) * g
        s = h.beta2 * s + (1 - h.beta2) * (g - m) ** 2 + h.eps_root
        m_hat = m / (1 - h.beta1**t)
        s_hat = s / (1 - h.beta2**t)
        theta = theta - h.lr * m_hat / (np.sqrt(s_hat) + h.eps)


def yogi(x: Array, h: Any) -> Run:
    """Zaheer et al. 2018, algorithm 2."""
    m, v = np.zeros_like(x), np.full_like(x, h.initial)
    while True:
        g = yield x
        m = h.beta1 * m + (1 - h.beta1) * g
        v = v - (1 - h.beta2) * np.sign(v - g**2) * g**2
        x = x - h.lr * m / (np.sqrt(v) + h.eps)


def corrected_yogi(x: Array, h: Any) -> Run:
    """The same algorithm 2 with the corrections of Adam's algorithm 1."""
    m, v, t = np.zeros_like(x), np.full_like(x, h.initial), 0
    while True:
        g = yield x
        t = t + 1
        m = h.beta1 * m + (1 - h.beta1) * g
        v = v - (1 - h.beta2) * np.sign(v - g**2) * g**2
        m_hat = m / (1 - h.beta1**t)
        v_hat = v / (1 - h.beta2**t)
        x = x - h.lr * m_hat / (np.sqrt(v_hat) + h.eps)


def adan(theta: Array, h: Any) -> Run:
    """Xie et al. 2022, algorithm 1, in its betas, which are 1 less ours, with the corrections of its authors' code."""
    m, v, n, k = np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta), 0
    last: Array | None = None
    while True:
        g = yield theta
        k = k + 1
        beta1, beta2, beta3 = 1 - h.beta1, 1 - h.beta2, 1 - h.beta3
        difference = np.zeros_like(g) if last is None else g - last
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * difference
        n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * difference) ** 2
        m_hat, v_hat, n_hat = m / (1 - h.beta1**k), v / (1 - h.beta2**k), n / (1 - h.beta3**k)
        eta = h.lr / (np.sqrt(n_hat + h.eps_root) + h.eps)
        theta = (theta - eta * (m_hat + (1 - beta2) * v_hat)) / (1 + h.weight_decay * h.lr)
        last = g


METHODS: dict[str, Callable[..., Paper]] = {
    "Adam": partial(Paper, adam),
    "AdamW": partial(Paper, adamw),
    "AMSGrad": partial(Paper, amsgrad),
    "CorrectedAMSGrad": partial(Paper, corrected_amsgrad),
    "Adamax": partial(Paper, adamax),
    "NAdam": partial(Paper, nadam),
    "RAdam": partial(Paper, radam),
    "AdaBelief": partial(Paper, adabelief),
    "Yogi": partial(Paper, yogi),
    "CorrectedYogi": partial(Paper, corrected_yogi),
    "Adan": partial(Paper, adan),
}
