"""Peers that compute with JAX: many of their steps in one loop, which XLA compiles in a fraction of the usual time.

A peer takes a few hundred steps of a few numbers each. Step by step that is the time of dispatches and transfers, and
in a loop that of XLA's compiler, which is told here not to optimise what runs for milliseconds. What is compiled of
our own is compiled as users compile it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

QUICK: Mapping[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,  # which make a module of LLVM of each fusion
    "xla_cpu_parallel_codegen_split_count": 1,
}


@functools.cache
def _quick() -> dict[str, Any]:
    """Those that this XLA has; another may have others."""
    import jax

    def known(name: str) -> bool:
        try:
            jax.jit(lambda: 0, compiler_options={name: QUICK[name]})()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in QUICK.items() if known(name)}


def jit(function: Callable[..., Any]) -> Any:
    """`jax.jit` of what a peer does."""
    import jax

    return jax.jit(function, compiler_options=_quick())


def loop(step: Callable[[Any, Any], Any]) -> Callable[[Any, Sequence[Any]], Any]:
    """What `carry = step(carry, each)` makes of a carry over a list of trees; compiled once for all of a length."""
    import jax

    scanned = jit(lambda carry, each: jax.lax.scan(lambda *of: (step(*of), None), carry, each)[0])
    return lambda carry, each: scanned(carry, jax.tree.map(lambda *leaves: np.stack(leaves), *each))


class Optax:
    """A transformation of optax, with parameters of its own and their state."""

    def __init__(self, transform: Any, params: Any) -> None:
        import jax
        import optax

        def step(carry: Any, grads: Any) -> Any:
            params, state = carry
            updates, state = transform.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self.transform, self._loop = transform, loop(step)
        self.params = jax.tree.map(jax.numpy.array, params)
        self.state = transform.init(self.params)

    def steps(self, grads: Sequence[Any]) -> None:
        """One for each of the gradients."""
        self.params, self.state = self._loop((self.params, self.state), grads)

    def elsewhere(self, params: Any, state: Any) -> Optax:
        """The same transformation with other parameters and another state."""
        import jax

        other = copy.copy(self)
        other.params, other.state = jax.tree.map(jax.numpy.array, params), state
        return other


class Keras:
    """An optimizer of Keras on JAX, with variables of its own, named like the parameters."""

    def __init__(self, make: Callable[[], Any], params: Mapping[str, Any]) -> None:
        self._make = make
        self._build(params)
        optimizer = self.optimizer

        def step(carry: Any, grads: Any) -> Any:
            own, values = carry
            values, own = optimizer.stateless_apply(own, grads, values)
            return own, values

        self._loop = loop(step)

    def _build(self, params: Mapping[str, Any]) -> None:
        import keras

        self.optimizer = self._make()
        self._named = {k: keras.Variable(a.copy(), dtype=a.dtype.name, name=k) for k, a in params.items()}
        self.optimizer.build([*self._named.values()])

    def elsewhere(self, params: Mapping[str, Any]) -> Keras:
        """Another optimizer that is made alike, with other parameters."""
        other = copy.copy(self)
        other._build(params)
        return other

    def steps(self, grads: Sequence[Mapping[str, Any]]) -> None:
        """One for each of the gradients."""
        both = [*self.optimizer.variables], [*self._named.values()]
        carry = tuple([v.value for v in of] for of in both)
        after = self._loop(carry, [[g[k] for k in self._named] for g in grads])
        for variables, values in zip(both, after, strict=True):
            for v, a in zip(variables, values, strict=True):
                v.assign(a)

    @property
    def params(self) -> dict[str, Any]:
        return {k: np.array(v.value) for k, v in self._named.items()}
