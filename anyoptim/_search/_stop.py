"""When a solver stops: conditions on what it has come to, which combine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

from anyoptim._search._result import Progress
from anyoptim._search._value import Value
from anyoptim._trace._hyperparameters import KW_ONLY, Check, Domain, WholeNumber, nonnegative, number

__all__ = ["Both", "Condition", "Either", "Stop"]

Reason = tuple[str, bool]
"""A message, and whether it means that the solver has converged."""


class Condition(Value):
    """A condition on which a solver stops; `a | b` stops on either, `a & b` once both hold.

    A subclass gives `reason`, which depends on nothing but what it is told:

    >>> class Risen(ao.solvers.Condition):
    ...     def reason(self, progress):
    ...         if progress.value > progress.previous:
    ...             return f"the value has risen to {progress.value:.3g}", False
    >>> Risen() | ao.Stop(steps=10)
    Risen() | Stop(steps=10)
    """

    @property
    def looks_at_params(self) -> bool:
        """Whether it looks at `params_norm`, which is not told otherwise: that is a pass over the parameters."""
        return True

    def reason(self, progress: Progress) -> Reason | None:
        """Why to stop, as a clause, and whether that means convergence; None to go on."""
        raise NotImplementedError

    def share(self, progress: Progress) -> float | None:
        """Which share of the steps, evaluations or seconds that are allowed is spent; None where there is no limit."""
        return None

    def __or__(self, other: Condition) -> Condition:
        return Either(self, other) if isinstance(other, Condition) else NotImplemented

    def __and__(self, other: Condition) -> Condition:
        return Both(self, other) if isinstance(other, Condition) else NotImplemented


class Either(Condition):
    """The condition that one of two holds: what `a | b` gives.

    >>> either = ao.Stop(gtol=1e-6) | ao.Stop(seconds=60)
    >>> type(either).__name__, either.left
    ('Either', Stop(gtol=1e-06))
    """

    left: Final[Condition]
    right: Final[Condition]

    @property
    def looks_at_params(self) -> bool:
        """Whether one of them does."""
        return self.left.looks_at_params or self.right.looks_at_params

    def reason(self, progress: Progress) -> Reason | None:
        """That of the one that holds; if both do, of one that means convergence."""
        found = [of for of in (self.left.reason(progress), self.right.reason(progress)) if of is not None]
        return max(found, key=lambda of: of[1], default=None)

    def share(self, progress: Progress) -> float | None:
        """The larger one."""
        shares = self.left.share(progress), self.right.share(progress)
        return max((share for share in shares if share is not None), default=None)

    def __repr__(self) -> str:
        return f"{self.left!r} | {self.right!r}"


class Both(Condition):
    """The condition that both of two hold: what `a & b` gives. It means convergence where one of them does.

    >>> both = ao.Stop(ftol=1e-9) & ao.Stop(gtol=1e-3)
    >>> type(both).__name__, both.right
    ('Both', Stop(gtol=0.001))
    """

    left: Final[Condition]
    right: Final[Condition]

    @property
    def looks_at_params(self) -> bool:
        """Whether one of them does."""
        return self.left.looks_at_params or self.right.looks_at_params

    def reason(self, progress: Progress) -> Reason | None:
        """Those of both, once both hold."""
        left, right = self.left.reason(progress), self.right.reason(progress)
        return (f"{left[0]}, and {right[0]}", left[1] or right[1]) if left and right else None

    def share(self, progress: Progress) -> float | None:
        """The smaller one, if both have limits."""
        left, right = self.left.share(progress), self.right.share(progress)
        return None if left is None or right is None else min(left, right)

    def __repr__(self) -> str:
        left, right = (f"({of!r})" if isinstance(of, Either) else repr(of) for of in (self.left, self.right))
        return f"{left} & {right}"


class Stop(Condition):
    """When a solver stops: as soon as one of the criteria holds that are given. What is not given stops nothing.

    ::

        gtol          max |g_i| <= gtol, of bounded parameters the projected gradient
        ftol          |f_before - f| <= ftol * max(|f_before|, |f|, 1)
        xtol          |step| <= xtol * (xtol + |params|)
        value         f <= value
        plateau       (r, n): the lowest f of the last n steps is lower than that of the n before by r*|f| at most
        steps, evaluations, seconds     so many have been taken, made, spent

    The first five mean that the solver has converged, the others that it has not. `Stop()` is short for
    `Stop(gtol=1e-5, ftol=2.2e-9, steps=15000)`, the defaults of SciPy's L-BFGS-B. Two values in float32 that differ do
    so by 6e-8 of themselves at least: there, any ftol below that asks for a step that does not change the value at all,
    and a gtol below the rounding of the gradient may never hold.

    Conditions combine: `Stop(gtol=1e-6) | Stop(steps=500)` is `Stop(gtol=1e-6, steps=500)`, and `Stop(gtol=1e-6) &
    Stop(ftol=1e-9)` wants both. Own ones are subclasses of `ao.solvers.Condition`.

    Args:
        gtol: finite and at least 0.
        ftol: finite and at least 0.
        xtol: finite and at least 0.
        value: a number.
        steps: at least 0; 0 evaluates and takes no step.
        evaluations: at least 1. A line search that has begun is finished.
        seconds: at least 0; they are looked at after each step.
        plateau: a finite number that is at least 0, and how many steps, at least 1.

    Source: SciPy's `minimize`, methods L-BFGS-B (gtol, ftol) and BFGS (xtol, which is xrtol there).

    >>> stop = ao.Stop(gtol=1e-6) & ao.Stop(ftol=1e-9) | ao.Stop(steps=500)
    >>> stop
    Stop(gtol=1e-06) & Stop(ftol=1e-09) | Stop(steps=500)
    >>> ao.Stop()
    Stop(gtol=1e-05, ftol=2.2e-09, steps=15000)
    """

    _: KW_ONLY
    gtol: Final[float | None] = None
    ftol: Final[float | None] = None
    xtol: Final[float | None] = None
    value: Final[float | None] = None
    plateau: Final[tuple[float, int] | None] = None
    steps: Final[int | None] = None
    evaluations: Final[int | None] = None
    seconds: Final[float | None] = None

    _checks: ClassVar[dict[str, Check]] = {
        "gtol": nonnegative,
        "ftol": nonnegative,
        "xtol": nonnegative,
        "value": number,
        "steps": WholeNumber(0),
        "evaluations": WholeNumber(1),
        "seconds": Domain(lambda x: x >= 0, "at least 0"),
    }

    def __post_init__(self) -> None:
        for name, check in self._checks.items():
            if (given := getattr(self, name)) is not None:
                vars(self)[f"_{name}"] = check.value(name, given)
        if self.plateau is not None:
            vars(self)["_plateau"] = _plateau(self.plateau)
        if all(value is None for value in self._arguments.values()):
            vars(self).update(_gtol=1e-5, _ftol=2.2e-9, _steps=15000)

    @property
    def looks_at_params(self) -> bool:
        """Whether xtol is given."""
        return self.xtol is not None

    def reason(self, progress: Progress) -> Reason | None:
        """The first criterion that holds, of those in the table above."""
        converged = next(self._converged(progress), None)
        if converged is not None:
            return converged, True
        spent = next(self._spent(progress), None)
        return None if spent is None else (spent, False)

    def _converged(self, of: Progress) -> Iterator[str]:
        if self.gtol is not None and of.gradient_max <= self.gtol:
            yield f"the largest element of the gradient, {of.gradient_max:.3g}, is at most gtol = {self.gtol:g}"
        if self.ftol is not None:
            change = abs(of.previous - of.value) / max(abs(of.previous), abs(of.value), 1.0)
            if change <= self.ftol:
                yield f"the last step changed the value by {change:.3g} of it, at most ftol = {self.ftol:g}"
        if self.xtol is not None and of.steps and of.step_norm <= self.xtol * (self.xtol + of.params_norm):
            share = of.step_norm / (self.xtol + of.params_norm) if of.step_norm else 0.0
            yield f"the last step was {share:.3g} of the parameters, at most xtol = {self.xtol:g}"
        if self.value is not None and of.value <= self.value:
            yield f"the value, {of.value:.6g}, is at most {self.value:g}, as was wanted"
        if self.plateau is not None:
            amount, n = self.plateau
            before, after = (min(values, default=of.value) for values in (of.values[-2 * n : -n], of.values[-n:]))
            if len(of.values) > n and not before - after > amount * abs(after):
                steps = "step" if n == 1 else f"{n} steps"
                yield f"the last {steps} lowered the value by no more than {amount:g} of it"

    def _spent(self, of: Progress) -> Iterator[str]:
        if self.steps is not None and of.steps >= self.steps:
            yield f"the limit steps = {self.steps} is reached"
        if self.evaluations is not None and of.evaluations >= self.evaluations:
            yield f"the limit evaluations = {self.evaluations} is reached, with {of.evaluations}"
        if self.seconds is not None and of.seconds >= self.seconds:
            yield f"the limit seconds = {self.seconds:g} is reached, with {of.seconds:.3g}"

    def share(self, progress: Progress) -> float | None:
        """Which share of the steps, evaluations or seconds that are allowed is spent; None where there is no limit."""
        spent = progress.steps, progress.evaluations, progress.seconds
        limits = self.steps, self.evaluations, self.seconds
        shares = [n / limit if limit else 1.0 for n, limit in zip(spent, limits, strict=True) if limit is not None]
        return min(max(shares), 1.0) if shares else None


def _plateau(given: Any) -> tuple[float, int]:
    """A plateau as a number and a count. Raises TypeError or ValueError."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"plateau is {given!r}; wanted a number and a count of steps, such as (1e-4, 20)")
    return nonnegative.value("plateau[0]", given[0]), WholeNumber(1).value("plateau[1]", given[1])
