"""Proximal steps that look at elements together: at groups, vectors and matrices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

from anyoptim._arrays import Array, library
from anyoptim._stage._stage import ParameterStage
from anyoptim._trace._elementwise import elements_of
from anyoptim._trace._hyperparameters import Domain, Hyper, Nonnegative
from anyoptim._trace._symbols import Symbol
from anyoptim.stages.layers import is_complex

__all__ = ["L21", "Nuclear", "Simplex", "bound", "rate"]

_Radius = Annotated[Hyper, Domain(lambda x: 0 < x < float("inf"), "above 0 and finite")]


def bound(name: str, rule: Callable[..., Array], **arguments: Any) -> Callable[..., Array]:
    """A rule of whole arrays with arguments that stay, under the name that errors have for it."""
    bound: Any = functools.partial(rule, **arguments)
    bound.__qualname__ = f"{name}.rule"
    return bound  # type: ignore[no-any-return]


def rate(name: str, hyper: Any) -> Any:
    """The learning rate of a stage that looks at elements together, for which it has to be a number."""
    if isinstance(hyper.lr, Symbol) and elements_of(hyper.lr.scalar):
        raise ValueError(f"lr is given element by element; {name} wants one number for all of a parameter")
    return hyper.lr


def _grouped(xp: Any, p: Array, c: Any, *, axis: Any) -> Array:
    if 0 in p.shape:
        return p
    sizes = xp.abs(p)
    # No square over- or underflows.
    largest = xp.max(sizes, axis=axis, keepdims=True)
    largest = xp.where(largest > 0, largest, xp.ones_like(largest))
    sizes = sizes / largest
    norm = largest * xp.sqrt(xp.sum(sizes * sizes, axis=axis, keepdims=True))
    shrunk = p / norm * (norm - c.threshold)
    return xp.where(norm <= c.threshold, xp.zeros_like(p), xp.where(norm - norm == 0, shrunk, p))


class L21(ParameterStage):
    """Shrink the length of every group by `lr*sigma`, and set groups to 0 that are no longer: few groups are left.

    ::

        |p| = sqrt(sum of |p|**2 along axis)
        p <- p/|p| * max(|p| - lr*sigma, 0)

    It is the proximal step of `sigma * sum of the lengths of all groups`, the penalty of the group lasso. What lies
    along `axis` is one group: of a matrix of shape (3, 100) with axis 0 there are 100 groups of three, as pyproximal's
    `L21(ndim=3)` has them of a vector of 300. Of complex elements, |p| counts both parts. Groups that have no finite
    length stay as they are. lr is that of the method before it in the chain, one number for a parameter. It works on
    whole arrays, by the array library's own functions (`portable`).

    Args:
        sigma: the weight of the penalty, finite and at least 0.
        axis: the axis that the length is taken along, or a tuple of several.

    Source: Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006, equation 2.4;
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.prox.L21(sigma=2.5))
    >>> optimizer.update(np.array([[3.0, 1.0], [4.0, 1.0]]), np.zeros((2, 2)))
    array([[1.5, 0. ],
           [2. , 0. ]])
    """

    sigma: Nonnegative = 1.0
    axis: Final[int | tuple[int, ...]] = 0
    borrows: ClassVar[tuple[str, ...]] = ("lr",)
    array_rule = True
    complex_arrays = True

    def __post_init__(self) -> None:
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        if not axes or any(type(axis) is not int for axis in axes):
            raise TypeError(f"axis is {self.axis!r}; wanted an integer, or a tuple of some")

    @property
    def rule(self) -> Callable[..., Array]:  # type: ignore[override] # of this axis
        return bound("L21", _grouped, axis=self.axis)

    @property
    def constants(self) -> dict[str, Any]:
        """The axis, and several as a list, which is what comes back of a file."""
        return {"axis": [*self.axis] if isinstance(self.axis, tuple) else self.axis}

    def refusal(self, p: Array) -> str | None:
        """Refuse parameters that have no such axes."""
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return next((_no_axis("L21", axis, p) for axis in axes if not -p.ndim <= axis < p.ndim), None)

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"threshold": rate("L21", hyper) * hyper.sigma}


def _no_axis(name: str, axis: int, p: Array) -> str:
    return f"has shape {tuple(p.shape)}; {name} wants an axis {axis}"


def _projected(xp: Any, p: Array, c: Any, *, axis: int | None) -> Array:
    if 0 in p.shape:
        return p
    x = xp.reshape(p, (-1,)) if axis is None else xp.moveaxis(p, axis, -1)
    # With the largest element at 0 nothing cancels, and what is below -radius can't be a summand.
    x = x - xp.max(x, axis=-1, keepdims=True)
    x = xp.where(x < -c.radius, xp.zeros_like(x) - c.radius, x)
    ordered = xp.flip(xp.sort(x, axis=-1), axis=-1)
    counts = xp.cumulative_sum(xp.ones_like(ordered), axis=-1)
    # The shift for which the n largest sum up to the radius is largest for those n that stay positive.
    shift = xp.max((xp.cumulative_sum(ordered, axis=-1) - c.radius) / counts, axis=-1, keepdims=True)
    x = x - shift
    x = xp.where(x < 0, xp.zeros_like(x), x)
    return xp.reshape(x, p.shape) if axis is None else xp.moveaxis(x, -1, axis)


class Simplex(ParameterStage):
    """Set every vector to the nearest one whose elements are at least 0 and sum up to `radius`: shares of a whole.

    ::

        p <- max(p - shift, 0)        with the one shift for which they sum up to radius

    It is the proximal step of a constraint, the same for every learning rate. What lies along `axis` is one vector;
    with None the whole parameter is. A NaN or an infinity makes its vector NaN. It works on whole arrays, by the array
    library's own functions (`portable`): the sum is right to the round-off of a sum of all its elements, one after the
    other, 1e-4 of it for a million in float32. Complex parameters are refused.

    Args:
        radius: the sum, above 0 and finite.
        axis: the axis that is summed along, or None for all.

    Source: Held, Wolfe and Crowder, Validation of subgradient optimization, 1974; Duchi et al., Efficient projections
    onto the l1-ball for learning in high dimensions, 2008, figure 1.

    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.prox.Simplex())
    >>> optimizer.update(np.array([0.5, 1.0, -3.0]), np.zeros(3))
    array([0.25, 0.75, 0.  ])
    """

    radius: _Radius = 1.0
    axis: Final[int | None] = -1
    array_rule = True

    def __post_init__(self) -> None:
        if self.axis is not None and type(self.axis) is not int:
            raise TypeError(f"axis is {self.axis!r}; wanted an integer, or None")

    @property
    def rule(self) -> Callable[..., Array]:  # type: ignore[override] # of this axis
        return bound("Simplex", _projected, axis=self.axis)

    def refusal(self, p: Array) -> str | None:
        """Refuse complex parameters, and those that have no such axis."""
        if is_complex(p):
            return "is complex; Simplex wants real parameters"
        return None if self.axis is None or -p.ndim <= self.axis < p.ndim else _no_axis("Simplex", self.axis, p)


class Nuclear(ParameterStage):
    """Shrink every singular value of a matrix by `lr*sigma`, and set those to 0 that are no larger: a low rank.

    ::

        p = U diag(s) V'
        p <- U diag(max(s - lr*sigma, 0)) V'

    It is the proximal step of `sigma * sum of the singular values`, also of complex matrices, where V' is the conjugate
    transpose. Of more than two axes the last two are those of matrices, each by itself. lr is that of the method before
    it in the chain, one number for a parameter. It works on whole arrays, by the array library's own `linalg.svd`
    (`portable`), in at least float32. Vectors and numbers are refused, and arrays in chunks, as Dask's are. What
    `linalg.svd` does with a NaN is the library's to say: NumPy's raises LinAlgError, and no step is taken.

    Args:
        sigma: the weight of the penalty, finite and at least 0.

    Source: Cai, Candes and Shen, A singular value thresholding algorithm for matrix completion, 2010, theorem 2.1.

    >>> optimizer = ao.chain(ao.SGD(lr=0.5), ao.prox.Nuclear(sigma=2.0))
    >>> optimizer.update(np.array([[0.0, 3.0], [0.5, 0.0]]), np.zeros((2, 2))) + 0.0
    array([[0., 2.],
           [0., 0.]])
    """

    sigma: Nonnegative = 1.0
    borrows: ClassVar[tuple[str, ...]] = ("lr",)
    array_rule = True
    complex_arrays = True

    def refusal(self, p: Array) -> str | None:
        """Refuse all but matrices, and libraries without singular values."""
        here = library(p)
        if here.lazy:
            return f"is a {here.name} array, in chunks; Nuclear wants matrices in one piece"
        if not hasattr(getattr(here.xp, "linalg", None), "svd"):
            return f"is a {here.name} array, and {here.name} has no linalg.svd, which Nuclear wants"
        return None if p.ndim > 1 else f"has shape {tuple(p.shape)}; Nuclear wants matrices"

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"threshold": rate("Nuclear", hyper) * hyper.sigma}

    @staticmethod
    def rule(xp: Any, p: Array, c: Any) -> Array:
        if 0 in p.shape:
            return p
        u, s, v = xp.linalg.svd(p, full_matrices=False)
        s = xp.where(s <= c.threshold, xp.zeros_like(s), s - c.threshold)
        return (u * xp.expand_dims(s, axis=-2)) @ v
