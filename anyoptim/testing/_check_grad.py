"""A gradient beside finite differences of its loss: which parameter is wrong, at which element, by what factor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from anyoptim._trace._hyperparameters import positive
from anyoptim._trace._scalars import whole_number
from anyoptim.testing._comparison import Comparison, Vector
from anyoptim.testing._probe import Probe, reals
from anyoptim.testing._report import GradReport, ParameterCheck
from anyoptim.testing._slopes import noise_of, significant_bits

__all__ = ["Check", "assert_grad", "check_grad"]

TOLERANCE = {8: 1e-1, 11: 2e-2, 24: 2e-3, 53: 1e-5}
"""By what part of its size a right gradient may differ, for arithmetic of so many bits.

They are those of JAX's `check_grads`, but for float16, in which losses, too, are rounded here. They are wider than the
rounding of a backward pass, and narrower than the mistakes that people make.
"""

BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "complex64": 24, "float64": 53, "complex128": 53}


def check_grad(
    value_and_grad: Callable[[Any], Any],
    params: Any,
    *,
    directions: int = 2,
    elements: int = 4,
    rtol: float | None = None,
    seed: int = 0,
) -> GradReport:
    """Compare a gradient with finite differences of its loss, for each parameter.

    >>> report = ao.check_grad(lambda w: ((w**2).sum(), -2 * w), np.array([1.0, 3.0]))
    >>> report.ok
    False
    >>> report[0].reason
    'it is minus the slope: the sign is wrong; at [1]: gradient -6, slope 6'

    Of each parameter the slope is measured along random directions, all signs at once, and at some elements: those of
    the largest and the smallest gradient, the first, the last, and random ones. Where it differs, more directions tell
    whether a factor, a sign, a conjugate or a transpose explains it, and halving finds an element that is wrong.

    Slopes are central differences at steps h, h/4, h/16, ..., each pair extrapolated by Richardson's rule. They end
    where the gradient is confirmed, or where the rounding of the loss, which is measured first, would be too large.
    `float16` and `bfloat16` do: differences are taken with what rounding left of the displacement. h begins at an
    eighth of the parameter's root mean square. Of zeros, as biases are at first, it begins at an eighth of what would
    change the loss by an eighth of itself, but at no more than that of the smallest of the other parameters, or of 1 if
    all are zeros.

    The loss is called with `params` itself, whose arrays are written to where they are writable, as by `update`, and
    replaced where not, so that a function that looks at its own network and not at its argument works as well. In the
    end, and after an exception, everything is as it was. A gradient of None is not checked, and one that is no more
    than the rounding of the others', such as that of a bias before a normalisation, is as right as 0.

    Args:
        value_and_grad: a function of the parameters that gives the loss, a real number, and its gradients, in a
            container like `params`; the gradient of a complex parameter is dL/dRe + i*dL/dIm. With the same parameters
            it has to give the same loss: fix seeds, and the masks of Dropout (`layer.forward(x, call=0)` and
            `layer.backward(dout, call=0)`; or `layer.calls = 0` at the top of it, where a network hands on no `call`).
        params: a container as for `update`, at a place that is typical: no minimum, and no kink, such as zeros with
            `relu` are.
        directions: how many random ones for each parameter, at least 1.
        elements: how many for each parameter, at least 0. A parameter that has no more is checked at each.
        rtol: by what part of its size a right gradient may differ, beside what can't be seen; None takes 1e-5 in
            float64, 2e-3 in float32, 2e-2 in float16 and 1e-1 in bfloat16, whichever of parameter, gradient and loss
            has the fewest digits.
        seed: of the random directions.

    Returns:
        The report. It takes four evaluations for each direction and element that is right at once.

    Raises ValueError for a loss that is not finite, or another one at each call, and like `update` for gradients that
    do not fit.

    Source: Nocedal and Wright, Numerical Optimization, section 8.1; the noise by More and Wild, 2011.
    """
    whole_number("directions", directions, 1)
    whole_number("elements", elements, 0)
    if rtol is not None:
        positive.value("rtol", rtol)
    return Check(value_and_grad, params, directions, elements, rtol, np.random.default_rng(seed)).report()


def assert_grad(value_and_grad: Callable[[Any], Any], params: Any, **options: Any) -> None:
    """Raise AssertionError, with the report, unless `check_grad` finds every gradient right.

    >>> ao.testing.assert_grad(lambda w: ((w**2).sum(), 2 * w), np.array([1.0, 3.0]))
    >>> ao.testing.assert_grad(lambda w: ((w**2).sum(), w), np.array([1.0, 3.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    AssertionError: the gradient is not that of the loss:...
    """
    report = check_grad(value_and_grad, params, **options)
    if not report.ok:
        raise AssertionError(f"the gradient is not that of the loss:\n{report}")


class Check:
    """One check of all parameters."""

    def __init__(
        self,
        value_and_grad: Callable[[Any], Any],
        params: Any,
        directions: int,
        elements: int,
        rtol: float | None,
        rng: np.random.Generator,
    ) -> None:
        self.probe = Probe(value_and_grad, params)
        self.directions, self.elements, self.rng = directions, elements, rng
        self.start, grads = self.probe.start()
        if not math.isfinite(self.start):
            raise ValueError(f"the loss is {self.start}; wanted a finite one at these parameters")
        # What belongs to a parameter is kept under the number of its leaf.
        self.grads = {i: reals(self.probe.parameter(i), g) for i, g in enumerate(grads) if g is not None}
        if not self.grads:
            raise ValueError("no parameter has a gradient; wanted one to check")
        self.xs = {i: self.probe.elements(i) for i in self.grads}
        self.sizes, self.further = self._sizes()
        self.moving = [i for i, g in self.grads.items() if g.size and np.isfinite(g).all()]
        self.bits = {
            i: min(BITS[p.dtype], BITS[p.library.dtype(grads[i])])
            for i, p in ((i, self.probe.parameter(i)) for i in self.grads)
        }
        values = self._noisy()
        self.noise, self.loss_bits = noise_of(values), significant_bits(values)
        self.rtol = {i: rtol or TOLERANCE[min(self.loss_bits, bits)] for i, bits in self.bits.items()}
        self.largest = max((self.sizes[i] * float(np.linalg.norm(self.grads[i])) for i in self.moving), default=0.0)

    def report(self) -> GradReport:
        """The checks of all leaves."""
        probe = self.probe
        found = []
        for i in range(len(probe.ps)):
            path = probe.tree.path(i)
            if i not in self.grads or not self.grads[i].size:
                found.append(ParameterCheck(path, "none", 0.0, 0.0, None, None, "no gradient"))
                continue
            try:
                check = Comparison(self, i, path, self.sizes[i]).check()
                if check.verdict == "unclear" and i in self.further:
                    # So far away it may be right, but nothing that is seen there makes it wrong here.
                    again = Comparison(self, i, path, self.further[i]).check()
                    check = again if again.verdict == "right" else check
                found.append(check)
            finally:
                probe.restore(i)
        return GradReport(found, probe.evaluations)

    def _sizes(self) -> tuple[dict[int, float], dict[int, float]]:
        """By how much to move the elements of each parameter at most, and by how much farther some may be moved.

        It is the size of those that are there. Of zeros it is what would change the loss by an eighth of itself, if it
        were a straight line, but no more than the least size of the other parameters: a gradient of rounding errors
        would lead them anywhere, and far away there are kinks. They may be moved farther where nothing can be seen.
        """
        own = {i: math.sqrt(float(np.mean(x * x))) for i, x in self.xs.items() if x.size}
        least = min((size for size in own.values() if size), default=1.0)
        sizes, further = {i: own.get(i) or least for i in self.xs}, {}
        for i in (i for i, size in own.items() if not size):
            slope = float(np.linalg.norm(self.grads[i]))
            change = abs(self.start) / 8 / slope if slope else 0.0
            if least < change < math.inf:
                further[i] = change
            elif 0 < change < least:
                sizes[i] = change
        return sizes, further

    def _exact_step(self, i: int) -> Vector:
        """A tiny step for each element, of which its dtype holds the first multiples, so that noise is the loss's."""
        x, digits = self.xs[i], round(2 / 3 * self.bits[i])
        power = 2.0 ** np.floor(np.log2(np.abs(np.where(x == 0, 1, x))))
        step = np.where(x == 0, self.sizes[i] / 3, power) * 2.0**-digits
        signed: Vector = step * self.rng.choice([-1.0, 1.0], x.size)
        return signed

    def _noisy(self) -> list[float]:
        """The loss at places so near to each other that what differs is noise.

        Raises ValueError for a loss that is another one at each call.
        """
        again = self.probe.loss()
        if abs(again - self.start) > 1e-3 * max(abs(again), abs(self.start)):
            raise ValueError(
                f"the loss is {self.start:.6g} and then {again:.6g} at the same parameters; wanted a function of the "
                "parameters alone: fix the seed, or the mask of Dropout"
            )
        steps = {i: self._exact_step(i) for i in self.moving}
        values = [self.start]
        try:
            for k in range(1, 7):
                for i in self.moving:
                    self.probe.place(i, self.xs[i] + k * steps[i])
                values.append(self.probe.loss())
        finally:
            for i in self.moving:
                self.probe.restore(i)
        finite = [v for v in values if math.isfinite(v)]
        # A loss that is another one each time by a little, as of sums in no fixed order, has that noise, too.
        return finite if len(finite) == len(values) else [self.start, again] * 3
