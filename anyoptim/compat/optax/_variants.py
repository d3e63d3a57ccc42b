"""What optax computes otherwise than the methods here: other starts, corrections and factors of the same rules."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated, Any, Final

from anyoptim._arrays import Array
from anyoptim._core._optimizer import Optimizer
from anyoptim._trace._hyperparameters import Fraction, Nonnegative, nonnegative
from anyoptim._trace._scalars import following, one_minus_power, sqrt
from anyoptim.optimizers import AdaBelief, AdaGrad, Adan, CenteredRMSProp, CorrectedYogi, RAdam, RMSProp
from anyoptim.optimizers._means import mean, mean_square, moments, squarable
from anyoptim.optimizers._roots import inside, root
from anyoptim.optimizers.signs import Growth

__all__ = [
    "CorrectedCenteredRMSProp",
    "CorrectedRMSProp",
    "EndedAdaGrad",
    "LateRprop",
    "NesterovAdaBelief",
    "NesterovRAdam",
    "OtherAdan",
    "Sign",
    "StartedCenteredRMSProp",
    "StartedRMSProp",
    "StartedYogi",
]


class Sign(Optimizer):
    """The sign of the gradient, without memory.

    ::

        p <- p - lr*sign(g)
    """

    lr: Nonnegative

    @staticmethod
    def rule(xp: Any, p: Array, x: Array, *, lr: float) -> Array:
        return lr * xp.sign(x)


class EndedAdaGrad(AdaGrad):
    """AdaGrad where 0/0, of elements that have seen no gradient, is 0."""

    @staticmethod
    def rule(
        xp: Any, p: Array, x: Array, h: Array, *, lr: float, eps: float, eps_root: float | None = None
    ) -> tuple[Array, ...]:
        step, h = AdaGrad.rule(xp, p, x, h, lr=lr, eps=eps, eps_root=eps_root)
        return xp.where(h > 0.0, step, 0.0), h


class OtherAdan(Adan):
    """Adan with `1-beta2` where its paper has what is beta2 here: before d and v.

    ::

        n <- n + (1-beta3)*((g + (1-beta2)*d)*(g + (1-beta2)*d) - n)
        step = (m/(1 - beta1**t) + (1-beta2)*v/(1 - beta2**t)) / (sqrt(n/(1 - beta3**t) + eps_root) + eps)
    """

    @staticmethod
    def coefficients(t: Any, *, lr: Any, beta2: Any, beta3: Any, **adan: Any) -> dict[str, Any]:
        return {
            **Adan.coefficients(t, lr=lr, beta2=beta2, beta3=beta3, **adan),
            "lr_v": lr * sqrt(one_minus_power(beta3, t)) * (1 - beta2) / one_minus_power(beta2, t),
            "ahead": 1 - beta2,
        }


def _ahead(lr_t: Any, beta1: Any, t: Any) -> dict[str, Any]:
    """The share of m, corrected for the next step, and of the gradient, for this one."""
    later = beta1 * one_minus_power(beta1, t) / one_minus_power(beta1, following(t))
    return {"lr_m": lr_t * later, "lr_g": lr_t * (1 - beta1)}


class NesterovAdaBelief(AdaBelief):
    """AdaBelief that looks ahead as NAdam does.

    ::

        beta1*m/(1 - beta1**(t+1)) + (1-beta1)*g/(1 - beta1**t)        for m/(1 - beta1**t)
    """

    @staticmethod
    def coefficients(t: Any, *, beta1: Any, **belief: Any) -> dict[str, Any]:
        found = AdaBelief.coefficients(t, beta1=beta1, **belief)
        return _ahead(found.pop("lr_t"), beta1, t) | found

    @staticmethod
    def rule(  # type: ignore[override] # it has a coefficient more
        xp: Any,
        p: Array,
        x: Array,
        m: Array,
        s: Array,
        *,
        lr_m: float,
        lr_g: float,
        a1: float,
        b1: float,
        a2: float,
        b2: float,
        eps: float,
        eps_root: float,
    ) -> tuple[Array, ...]:
        x = squarable(xp, x, 0.5 / xp.sqrt(a2))
        m = mean(m, x, a=a1, b=b1)
        s = mean_square(xp, s, x - m, a=a2, b=b2) + eps_root
        return (lr_m * m + lr_g * x) / (xp.sqrt(s) + eps), m, s


class NesterovRAdam(RAdam):
    """RAdam that looks ahead as NAdam does, also where v is left alone."""

    @staticmethod
    def coefficients(t: Any, *, beta1: Any, **radam: Any) -> dict[str, Any]:
        found = RAdam.coefficients(t, beta1=beta1, **radam)
        return _ahead(found.pop("lr_t"), beta1, t) | found

    @staticmethod
    def rule(  # type: ignore[override] # it has a coefficient more
        xp: Any,
        p: Array,
        x: Array,
        m: Array,
        v: Array,
        *,
        lr_m: float,
        lr_g: float,
        trust: float,
        eps: float,
        eps_root: Any = None,
        **means: float,
    ) -> tuple[Array, ...]:
        x, m, v = moments(xp, x, m, v, **means)
        return (lr_m * m + lr_g * x) / (trust * root(xp, v, eps_root) + eps), m, v


class StartedYogi(CorrectedYogi):
    """Yogi whose m starts at `initial`, too."""

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """`initial` everywhere."""
        return xp.full_like(p, self.initial), xp.full_like(p, self.initial)


class _Started(RMSProp):
    """RMSProp whose mean square starts at `initial`."""

    _: KW_ONLY
    initial: Final[Annotated[float, nonnegative]] = 0.0

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """`initial` everywhere, and zeros."""
        return tuple(xp.zeros_like(p) if name == "m" else xp.full_like(p, self.initial) for name in self.slots)


class StartedRMSProp(_Started):
    """RMSProp whose h starts at `initial`."""


class CorrectedRMSProp(_Started):
    """The same with Adam's correction of h.

    ::

        p <- p - lr*g / (sqrt(h/(1 - rho**t) + eps_root) + eps)
    """

    @staticmethod
    def coefficients(t: Any, *, lr: Any, rho: Any, eps: Any, eps_root: Any) -> dict[str, Any]:
        c = one_minus_power(rho, t)
        corrected = sqrt(c)
        return {"lr": lr * corrected, "rho": rho, "new": 1 - rho, "eps": eps * corrected, **inside(eps_root, c)}


class StartedCenteredRMSProp(_Started, CenteredRMSProp):
    """Centered RMSProp whose mean square, and so its variance, starts at `initial`."""


class CorrectedCenteredRMSProp(_Started, CenteredRMSProp):
    """The same with Adam's correction of both means.

    ::

        p <- p - lr*g / (sqrt(h/c - m*m/(c*c) + eps_root) + eps),    c = 1 - rho**t,  h = s + m*m
    """

    @staticmethod
    def coefficients(t: Any, *, rho: Any, **more: Any) -> dict[str, Any]:
        c = one_minus_power(rho, t)
        return {**CorrectedRMSProp.coefficients(t, rho=rho, **more), "less": (1 - c) / c}

    @staticmethod
    def rule(  # type: ignore[override] # it has a coefficient more
        xp: Any,
        p: Array,
        x: Array,
        s: Array,
        m: Array,
        *,
        lr: float,
        eps: float,
        less: float,
        eps_root: float | None = None,
        **means: float,
    ) -> tuple[Array, ...]:
        x, s, m = CenteredRMSProp.means(xp, x, s, m, **means)
        # A variance, but that a difference is rounded.
        variance = xp.maximum(s - less * (m * m), 0.0)
        return lr * x / (root(xp, variance, eps_root) + eps), s, m


class LateRprop(Optimizer):
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

    def init_slots(self, xp: Any, p: Array) -> tuple[Array, ...]:
        """The first length, and no step."""
        return xp.full_like(p, self.initial), xp.zeros_like(p)

    @staticmethod
    def rule(
        xp: Any,
        p: Array,
        x: Array,
        s: Array,
        d: Array,
        *,
        eta_minus: float,
        eta_plus: float,
        step_min: float,
        step_max: float,
    ) -> tuple[Array, ...]:
        same = x * d
        longer = xp.minimum(xp.maximum(s * xp.where(same > 0, eta_plus, eta_minus), step_min), step_max)
        s = xp.where(same == 0, s, longer)
        return xp.where(same < 0, 0.0, d), s, xp.where(same < 0, 0.0, s * xp.sign(x))
