"""Methods that optax computes in another way than ours: other starts, corrections and factors of the same rules."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated, Any, Final

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Fraction, Growth, Nonnegative, nonnegative
from anyoptim._trace._scalars import following, one_minus_power, sqrt
from anyoptim.optimizers import AdaBelief, AdaGrad, Adan, CenteredRMSProp, CorrectedYogi, RAdam, RMSProp
from anyoptim.optimizers._terms import decayed, inside, moments, root

__all__ = [
    "CorrectedCenteredRMSProp",
    "CorrectedRMSProp",
    "NesterovAdaBelief",
    "NesterovRAdam",
    "OptaxAdaGrad",
    "OptaxAdan",
    "OptaxCenteredRMSProp",
    "OptaxRMSProp",
    "OptaxRprop",
    "OptaxYogi",
    "SignSGD",
]


class SignSGD(Optimizer):
    """The sign of the gradient, without memory.

    ::

        p <- p - lr*sign(g)
    """

    lr: Nonnegative

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, c: Any) -> Array:
        return c.lr * xp._direction(x)


class OptaxAdaGrad(AdaGrad):
    """AdaGrad where 0/0, of elements that have seen no gradient, is 0."""

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, h: Array, c: Any) -> tuple[Array, ...]:
        step, h = AdaGrad.rule(xp, p, x, h, c)
        return xp.where(h > 0.0, step, 0.0), h


class OptaxAdan(Adan):
    """Adan with `1-beta2` where its paper has what is beta2 here: before d and v.

    ::

        n <- n + (1-beta3)*((g + (1-beta2)*d)*(g + (1-beta2)*d) - n)
        step = (m/(1 - beta1**t) + (1-beta2)*v/(1 - beta2**t)) / (sqrt(n/(1 - beta3**t) + eps_root) + eps)
    """

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        ahead = 1 - hyper.beta2
        lr_v = hyper.lr * sqrt(one_minus_power(hyper.beta3, t)) * ahead / one_minus_power(hyper.beta2, t)
        return {**Adan.coefficients(t, hyper), "lr_v": lr_v, "ahead": ahead}


def _ahead(row: dict[str, Any], beta1: Any, t: Any) -> dict[str, Any]:
    """These coefficients with a rate of m, corrected for the next step, and one of the gradient, for this one."""
    lr_t = row.pop("lr_t")
    later = beta1 * one_minus_power(beta1, t) / one_minus_power(beta1, following(t))
    return {"lr_m": lr_t * later, "lr_g": lr_t * (1 - beta1)} | row


class NesterovAdaBelief(AdaBelief):
    """AdaBelief that looks ahead as NAdam does.

    ::

        beta1*m/(1 - beta1**(t+1)) + (1-beta1)*g/(1 - beta1**t)        for m/(1 - beta1**t)
    """

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return _ahead(AdaBelief.coefficients(t, hyper), hyper.beta1, t)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, s: Array, c: Any) -> tuple[Array, ...]:
        x, m, s = AdaBelief.means(xp, x, m, s, c)
        return (c.lr_m * m + c.lr_g * x) / (xp.sqrt(s) + c.eps), m, s


class NesterovRAdam(RAdam):
    """RAdam that looks ahead as NAdam does, also where v is left alone."""

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return _ahead(RAdam.coefficients(t, hyper), hyper.beta1, t)

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, m: Array, v: Array, c: Any) -> tuple[Array, ...]:
        x, m, v = moments(xp, x, m, v, c)
        return decayed(p, (c.lr_m * m + c.lr_g * x) / (c.trust * root(xp, v, c) + c.eps), c), m, v


class OptaxYogi(CorrectedYogi):
    """Yogi whose m starts at `initial`, too."""

    starts = {"m": "initial", "v": "initial"}


class _OptaxStart(RMSProp):
    """RMSProp whose mean square starts at `initial`."""

    _: KW_ONLY
    initial: Final[Annotated[float, nonnegative]] = 0.0
    starts = {"h": "initial", "s": "initial"}


class OptaxRMSProp(_OptaxStart):
    """RMSProp whose h starts at `initial`."""


class CorrectedRMSProp(_OptaxStart):
    """RMSProp with Adam's correction of h.

    ::

        p <- p - lr*g / (sqrt(h/(1 - rho**t) + eps_root) + eps)
    """

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        c = one_minus_power(hyper.rho, t)
        corrected = sqrt(c)
        own = {"lr": hyper.lr * corrected, "eps": hyper.eps * corrected, **inside(hyper.eps_root, c)}
        return RMSProp.coefficients(t, hyper) | own


class OptaxCenteredRMSProp(_OptaxStart, CenteredRMSProp):
    """Centered RMSProp whose mean square, and so its variance, starts at `initial`."""


class CorrectedCenteredRMSProp(_OptaxStart, CenteredRMSProp):
    """Centered RMSProp with Adam's correction of both means.

    ::

        p <- p - lr*g / (sqrt(h/c - m*m/(c*c) + eps_root) + eps),    c = 1 - rho**t,  h = s + m*m
    """

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        c = one_minus_power(hyper.rho, t)
        return {**CorrectedRMSProp.coefficients(t, hyper), "less": (1 - c) / c}

    @staticmethod
    def rule(  # type: ignore[override] # it has a slot more
        xp: Any, p: Array, x: Array, s: Array, m: Array, c: Any
    ) -> tuple[Array, ...]:
        x, s, m = CenteredRMSProp.means(xp, x, s, m, c)
        # A variance, but that a difference is rounded.
        variance = xp.maximum(s - c.less * (m * m), 0.0)
        return c.lr * x / (root(xp, variance, c) + c.eps), s, m


class OptaxRprop(Optimizer):
    """Rprop as optax has it, up to 0.2.8: each step is taken one update late, or never if the sign has turned by then.

    ::

        s <- min(max(s*eta_plus, step_min), step_max)  where g*d > 0,  with eta_minus  where g*d < 0,  else s
        p <- p - d  where g*d >= 0
        d <- 0  where g*d < 0,  else s*sign(g)

    s starts at `initial`.
    """

    eta_minus: Fraction
    eta_plus: Growth
    step_min: Nonnegative
    step_max: Nonnegative
    _: KW_ONLY
    initial: Final[Annotated[float, nonnegative]]
    slots = ("s", "d")
    starts = {"s": "initial"}

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, s: Array, d: Array, c: Any) -> tuple[Array, ...]:
        same = x * d
        longer = xp.minimum(xp.maximum(s * xp.where(same > 0, c.eta_plus, c.eta_minus), c.step_min), c.step_max)
        s = xp.where(same == 0, s, longer)
        return xp.where(same < 0, 0.0, d), s, xp.where(same < 0, 0.0, s * xp.sign(x))
