"""Peers to compare with; those that compute with JAX take many steps in one loop, without dispatches and transfers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.support.xla import loop


class Torch:
    """An optimizer of torch, with parameters of its own, which are given and handed back as NumPy arrays."""

    def __init__(self, make: Callable[[dict[str, Any]], Any], params: Mapping[str, Any]) -> None:
        import torch

        self.parameters: dict[str, Any] = {k: torch.nn.Parameter(torch.tensor(a)) for k, a in params.items()}
        self.optimizer = make(self.parameters)
        self._tensor = torch.tensor

    def update(self, grads: Mapping[str, Any]) -> None:
        """Take one step."""
        for k, p in self.parameters.items():
            p.grad = None if grads[k] is None else self._tensor(grads[k])
        self.optimizer.step()

    @property
    def params(self) -> dict[str, Any]:
        return {k: p.detach().numpy().copy() for k, p in self.parameters.items()}


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
        """Take one step for each of the gradients."""
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
        """Take one step for each of the gradients."""
        both = [*self.optimizer.variables], [*self._named.values()]
        carry = tuple([v.value for v in of] for of in both)
        after = self._loop(carry, [[g[k] for k in self._named] for g in grads])
        for variables, values in zip(both, after, strict=True):
            for v, a in zip(variables, values, strict=True):
                v.assign(a)

    @property
    def params(self) -> dict[str, Any]:
        return {k: np.array(v.value) for k, v in self._named.items()}
