"""The proximal steps that others have written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

import numpy as np

from anyoptim._arrays import COMPUTE, Array, library
from anyoptim._stage._stage import ParameterStage
from anyoptim.stages.prox._arrays import bound, rate

__all__ = ["Operator"]


def _applied(xp: Any, p: Array, c: Any, *, f: Any) -> Array:
    if not c.tau:
        return p
    here = library(p)
    flat = xp.reshape(xp.asarray(p, copy=True), (-1,)) if here.name == "cupy" else np.array(here.to_host(p)).reshape(-1)
    try:
        new = f.prox(flat, c.tau)
    except Exception as error:
        error.add_note(f"raised by prox of {f!r} for a parameter of shape {tuple(p.shape)}")
        raise
    shape, dtype = getattr(new, "shape", None), getattr(new, "dtype", None)
    if type(new) is not type(flat) or new.size != flat.size or new.dtype.kind not in {"f", flat.dtype.kind}:
        raise TypeError(
            f"prox of {f!r} gave a {type(new).__name__} of shape {shape} and dtype {dtype}; wanted a "
            f"{type(flat).__name__} of shape {flat.shape} and dtype {flat.dtype}, like its argument"
        )
    if here.name == "cupy":
        return xp.reshape(xp.astype(new, p.dtype), p.shape)
    return here.from_host(np.array(new, dtype=flat.dtype).reshape(p.shape), p)


class Operator(ParameterStage):
    """The proximal step of any function that somebody else has written: an object with `prox(x, tau)`.

    ::

        p <- f.prox(p, lr)

    That is pyproximal's interface, and `f` any of its operators, such as `pyproximal.TV(dims=image.shape, sigma=0.1)`;
    its weight `sigma` is its own. Its `tau` is lr, the learning rate of the method before it in the chain, one number
    for a parameter; with an lr of 0 the parameter stays. `prox` is given a copy of each parameter that moves, as a
    vector in C order, in at least float32 or, if it is complex, complex64, and gives a vector as long. It is a NumPy
    array, for CuPy's parameters one of CuPy's; those of other libraries are handed over as NumPy's where they lie in
    this machine's memory, and are refused elsewhere and under `jax.jit`. If `prox` raises, nothing has been written. It
    works on whole arrays (`portable`).

    Args:
        f: what has `prox(x, tau)`, by which the minimum over y of `f(y) + sum of |y - x|**2 / (2*tau)` is meant.

    Source: Parikh and Boyd, Proximal algorithms, 2014, equation 1.2; Ravasi et al., PyProximal: scalable convex
    optimization in Python, 2024.

    >>> class Halved:
    ...     def prox(self, x, tau):
    ...         return x / (1 + tau)
    >>> optimizer = ao.chain(ao.SGD(lr=1.0), ao.prox.Operator(Halved()))
    >>> optimizer.update(np.array([[3.0, -0.5]]), np.zeros((1, 2)))
    array([[ 1.5 , -0.25]])
    """

    f: Final[Any]
    borrows: ClassVar[tuple[str, ...]] = ("lr",)
    array_rule = True
    complex_arrays = True

    def __post_init__(self) -> None:
        if isinstance(self.f, type) or not callable(getattr(self.f, "prox", None)):
            raise TypeError(f"f is {self.f!r}; wanted an object with prox(x, tau), such as pyproximal's operators")

    @property
    def rule(self) -> Callable[..., Array]:  # type: ignore[override] # of this object
        return bound("Operator", _applied, f=self.f)

    @property
    def constants(self) -> dict[str, Any]:
        """None that could be saved: `f` is an object, which the program makes again."""
        return {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.f!r})"

    def refusal(self, p: Array) -> str | None:
        """Refuse parameters that are neither CuPy's nor in this machine's memory."""
        here = library(p)
        if here.name == "cupy" or _on_host(p):
            return None
        return f"is a {here.name} array that is not, or not yet, in this machine's memory; Operator wants one that is"

    @staticmethod
    def coefficients(t: Any, hyper: Any) -> dict[str, Any]:
        return {"tau": rate("Operator", hyper)}


def _on_host(p: Array) -> bool:
    """Whether the elements of an array are known, and lie all in this process, where NumPy can read them."""
    here = library(p)
    if here.lazy or here.distributed or here.traced(p):
        return False
    none = p[(slice(0, 0), ...) if p.ndim else ...]
    try:
        np.from_dlpack(here.xp.astype(none, getattr(here.xp, COMPUTE[here.dtype(p)])))
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
        return False
    return True
