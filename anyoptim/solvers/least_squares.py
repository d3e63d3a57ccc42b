"""The linear least-squares problem, given by a forward operator and its adjoint."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from anyoptim._arrays import Array, is_scalar, slot_dtype
from anyoptim._arrays import _checks as checks
from anyoptim._arrays._checks import Parameter
from anyoptim._arrays._quiet import quiet
from anyoptim._arrays._tree import Name, Tree
from anyoptim._trace._hyperparameters import nonnegative
from anyoptim.solvers._vectors import Kernel, Space, Vector

__all__ = ["LeastSquares", "each"]

_WEIGHTS = ("bool", "float16", "bfloat16", "float32", "float64")


class LeastSquares:
    """A linear least-squares problem: a function of parameters that gives its value and its gradient.

    ::

        r = forward(p) - data
        f = 0.5 * sum of weights * |r|**2
        g = adjoint(weights * r)

    Every solver and every optimizer takes it; `CGLS`, `Landweber` and `SIRT` take nothing else, for they apply
    `forward` and `adjoint` by themselves. `adjoint` is the one for the inner product Re<a, b>: of a complex matrix A it
    is the conjugate transpose, and the gradient then is dL/dRe + i*dL/dIm. `ao.check_adjoint` tells whether it is.

    A penalty is more data: with `forward` `lambda p: (A @ p, mu * p)`, `adjoint` `lambda r: A.T @ r[0] + mu * r[1]` and
    the data `(b, 0 * p)` there is `0.5 * mu**2 * |p|**2` beside.

    Args:
        forward: a linear function of the parameters, in their container, that gives what `data` would be without noise.
        adjoint: its adjoint, a function of what is like the data that gives what is like the parameters: None for those
            that do not move. It is called with arrays in the compute dtype of the data, at least float32, and must not
            write to them.
        data: an array or a container of some, real or complex. They are only read.
        weights: numbers that are finite and at least 0: one for all, or a container like that of the data, whose arrays
            have the shapes of the data or such that broadcast to these, and None for 1. With 0, or with False in a
            mask, an element is ignored, as one that was not measured; it has to be finite all the same.

    Raises TypeError and ValueError for data and weights that are none. What `forward` gives has to be like the data,
    and when it is called, the first array that is not is named.

    >>> A, b = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([2.0, 1.0, 3.0])
    >>> problem = ao.LeastSquares(lambda p: A @ p, lambda r: A.T @ r, b)
    >>> problem(np.zeros(2))
    (7.0, array([-4., -4.]))
    >>> ao.minimize(problem, np.zeros(2), method=ao.CGLS()).params.round(6)
    array([1., 2.])
    """

    def __init__(
        self, forward: Callable[[Any], Any], adjoint: Callable[[Any], Any], data: Any, weights: Any = None
    ) -> None:
        for name, of in (("forward", forward), ("adjoint", adjoint)):
            if not callable(of):
                raise TypeError(f"{name} is a {type(of).__name__}; wanted a function, such as lambda p: A @ p")
        self.forward: Callable[[Any], Any] = forward
        self.adjoint: Callable[[Any], Any] = adjoint
        self.data: Any = data
        self.weights: Any = weights
        self._tree = Tree("data", data)
        self.ps: list[Parameter] = []
        """What is known of each array of the data."""
        for i, p in enumerate(checks.parameters(self._tree)):
            if p is None:
                raise ValueError(f"{self._tree.name(i)} is None; wanted an array")
            self.ps.append(p)
        self.space: Space = Space(self.ps, None)
        self._roots = None if weights is None else self._roots_of(weights)

    def __call__(self, params: Any) -> tuple[float, Any]:
        """The value and the gradient."""
        return self.at(self.residual(params))

    def __repr__(self) -> str:
        weighted = "" if self.weights is None else ", weighted"
        return f"LeastSquares({self.forward!r}, {self.adjoint!r}, {self.space.size} numbers{weighted})"

    def at(self, residual: Vector) -> tuple[float, Any]:
        """The value and the gradient where this is the residual."""
        return 0.5 * self.space.squared(residual), self.back(residual)

    def image(self, params: Any) -> Vector:
        """`root(weights) * forward(params)`. Raises ValueError or TypeError where that is not like the data."""
        return self.weighted(self._forward(params))

    def residual(self, params: Any) -> Vector:
        """`root(weights) * (forward(params) - data)`, in arrays of its own."""
        data = self.space.widened([p.array for p in self.ps])
        return self.weighted(each(operator.sub, self.ps, self._forward(params), data))

    def back(self, residual: Vector) -> Any:
        """`adjoint(root(weights) * residual)`, as it comes."""
        return self.adjoint(self._tree.build(self.weighted(residual)))

    def weighted(self, vector: Vector) -> Vector:
        """`root(weights) * vector`; the vector itself, where there are no weights."""
        if self._roots is None:
            return vector
        return self.space.widened(each(operator.mul, self.ps, self._roots, vector))

    def _forward(self, params: Any) -> Vector:
        """What `forward` gives, checked, in the compute dtype of the data."""
        xs = checks.gradients(self._tree, self.ps, range(len(self.ps)), self.forward(params), "forward(params)")
        found = []
        for i, x in enumerate(xs):
            if x is None:
                raise ValueError(f"{self._tree.name(i, 'forward(params)')} is None; wanted an array like the data")
            found.append(x)
        return self.space.widened(found)

    def _roots_of(self, weights: Any) -> Vector:
        """The square roots of the weights, for each array of the data. Raises TypeError or ValueError."""
        if is_scalar(weights):
            weights = self._tree.build([weights] * len(self.ps))
        tree = Tree("weights", self._tree.build(self._tree.match("weights", weights)))
        widened = [self._weight(tree.name(i), w, p) for i, (w, p) in enumerate(zip(tree.leaves, self.ps, strict=True))]
        space = Space([p for p in checks.parameters(Tree("weights", widened)) if p is not None], None)
        roots = space.copied(space.params)
        space.run(_ROOT, roots, [roots])
        return roots

    def _weight(self, name: Name, weight: Any, p: Parameter) -> Array:
        """The weights of an array of the data, in the dtype of its arithmetic."""
        library, dtype = p.library, getattr(p.library.xp, slot_dtype(p.dtype, real=True))
        if weight is None or is_scalar(weight):
            return library.scalar(nonnegative.value(str(name), 1.0 if weight is None else weight), dtype, p.array)
        given, array, _ = checks.admit(name, weight, dtypes=_WEIGHTS)
        data = self._tree.name(next(i for i, of in enumerate(self.ps) if of is p))
        if given is not library:
            raise TypeError(f"{name} is a {given.name} array but {data} is a {library.name} array; wanted one library")
        if not checks.on_one_device(p, array):
            raise ValueError(f"{name} is on device {library.device(array)} but {data} is on {library.device(p.array)}")
        if not _broadcasts(tuple(array.shape), tuple(p.array.shape)):
            raise ValueError(f"{name} has shape {tuple(array.shape)} but {data} has shape {tuple(p.array.shape)}")
        xp = library.xp
        with quiet(), library.on_device_of(p.array):
            if not bool(library.to_host(xp.all((array >= 0) & xp.isfinite(array)))):
                raise ValueError(f"{name} has an element that is negative or not finite; wanted weights")
            return library.array(xp.astype(array, dtype))


def _root(xp: Any, x: Array, w: Array, c: Any) -> Array:
    """`w <- root(w)`."""
    return xp.sqrt(w)


_ROOT = Kernel(_root, ("w",))


def each(of: Callable[[Array, Array], Array], ps: Sequence[Parameter], a: Vector, b: Vector) -> Vector:
    """An operation of two vectors, array by array, as their library does it."""
    found = []
    for p, x, y in zip(ps, a, b, strict=True):
        with quiet(), p.library.on_device_of(p.array):
            found.append(p.library.array(of(x, y)))
    return found


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of a shape can stand for one of another."""
    return len(shape) <= len(to) and all(n in {1, m} for n, m in zip(reversed(shape), reversed(to), strict=False))
