"""Training code of the public from-scratch courses runs unchanged with the classes swapped: to the same bits."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.reference import textbook
from tests.support.libraries import METHODS, same_bits

pytestmark = pytest.mark.telling


def _lr(name: str) -> float:
    return 4.0 if name == "AdaDelta" else 0.1  # whose lr is a factor to steps that begin small


class Affine:
    def __init__(self, W: Any, b: Any) -> None:
        self.W, self.b = W, b

    def forward(self, x: Any) -> Any:
        self.x = x
        return x @ self.W + self.b

    def backward(self, dout: Any) -> Any:
        self.dW = (dout.T @ self.x).T  # Fortran-ordered, as a transposed product is
        self.db = dout.sum(axis=0)
        return dout @ self.W.T


class Relu:
    def forward(self, x: Any) -> Any:
        self.mask = x <= 0
        return np.where(self.mask, 0, x)

    def backward(self, dout: Any) -> Any:
        return np.where(self.mask, 0, dout)


class SoftmaxWithLoss:
    def forward(self, x: Any, t: Any) -> Any:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        self.y, self.t = e / e.sum(axis=1, keepdims=True), t
        return -np.log(self.y[np.arange(len(t)), t]).mean()

    def backward(self) -> Any:
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx / len(self.t)


class TwoLayerNet:
    """The layers hold the same arrays as `params`: the optimizer must move those arrays, not make others."""

    def __init__(self, dropout: Any) -> None:
        rng = np.random.default_rng(13)
        self.params = {
            "W1": 0.1 * rng.normal(size=(8, 16)),
            "b1": np.zeros(16),
            "W2": 0.1 * rng.normal(size=(16, 3)),
            "b2": np.zeros(3),
        }
        self.layers: OrderedDict[str, Any] = OrderedDict()
        self.layers["Affine1"] = Affine(self.params["W1"], self.params["b1"])
        self.layers["Relu1"] = Relu()
        self.layers["Dropout1"] = dropout
        self.layers["Affine2"] = Affine(self.params["W2"], self.params["b2"])
        self.last_layer = SoftmaxWithLoss()

    def predict(self, x: Any, train_flg: bool) -> Any:
        for name, layer in self.layers.items():
            x = layer.forward(x, train_flg) if "Dropout" in name else layer.forward(x)
        return x

    def loss(self, x: Any, t: Any, train_flg: bool = False) -> Any:
        return self.last_layer.forward(self.predict(x, train_flg), t)

    def gradient(self, x: Any, t: Any) -> dict[str, Any]:
        self.loss(x, t, train_flg=True)
        dout = self.last_layer.backward()
        for layer in reversed(list(self.layers.values())):
            dout = layer.backward(dout)
        grads = {}
        grads["W1"], grads["b1"] = self.layers["Affine1"].dW, self.layers["Affine1"].db
        grads["W2"], grads["b2"] = self.layers["Affine2"].dW, self.layers["Affine2"].db
        return grads


def _data() -> tuple[Any, Any]:
    rng = np.random.default_rng(14)
    t = rng.integers(0, 3, size=60)
    return rng.normal(size=(60, 8)) + np.eye(3, 8)[t] * 3, t


def train_with_dicts(optimizer: Any, dropout: Any) -> TwoLayerNet:
    network = TwoLayerNet(dropout)
    x, t = _data()
    for i in range(100):
        if i == 50:
            optimizer.lr = optimizer.lr / 2
        grads = network.gradient(x, t)
        optimizer.update(network.params, grads)
    return network


@pytest.mark.parametrize("name", textbook.METHODS)
def test_dicts_that_share_arrays_with_layers(name: str) -> None:
    """One class swapped for the other, the learning rate changed midway: the network's own arrays, bit by bit."""
    theirs = train_with_dicts(textbook.METHODS[name](lr=_lr(name)), ao.Dropout(0.2, seed=1))
    ours = train_with_dicts(METHODS[name](lr=_lr(name)), ao.Dropout(0.2, seed=1))
    for key in ours.params:
        assert same_bits(ours.params[key], theirs.params[key])
    assert ours.layers["Affine1"].W is ours.params["W1"]
    x, t = _data()
    assert ours.loss(x, t) == theirs.loss(x, t)
    assert ours.loss(x, t) < 0.5


def test_dropout_in_the_place_of_the_books() -> None:
    """Called with the flag by position, then backward: it trains, and inference scales by 1 - ratio."""
    network = train_with_dicts(ao.Momentum(lr=0.1), ao.Dropout(0.2, seed=1))
    twin = train_with_dicts(textbook.Momentum(lr=0.1), textbook.Dropout(0.2))
    x, t = _data()
    assert network.loss(x, t) < 0.5
    assert twin.loss(x, t) < 0.5
    ours, books = ao.Dropout(0.3), textbook.Dropout(0.3)
    assert same_bits(ours.forward(x, False), books.forward(x, False))
    y = ours.forward(x, True)
    assert same_bits(y, x * ours.mask)
    assert same_bits(ours.backward(x), x * ours.mask)


def remove_duplicate(params: list[Any], grads: list[Any]) -> tuple[list[Any], list[Any]]:
    """Tied weights outside the optimizer: their gradients are summed and one entry stays."""
    params, grads = params[:], grads[:]
    while True:
        pair = next(
            (
                (i, j, transposed)
                for i in range(len(params))
                for j in range(i + 1, len(params))
                for transposed in (False, True)
                if params[i] is params[j]
                or (
                    transposed
                    and params[i].ndim == 2
                    and params[j].base is params[i]
                    and params[j].T.shape == params[i].shape
                )
            ),
            None,
        )
        if pair is None:
            return params, grads
        i, j, transposed = pair
        grads[i] = grads[i] + (grads[j].T if transposed else grads[j])
        params.pop(j)
        grads.pop(j)


def clip_grads(grads: list[Any], max_norm: float) -> None:
    total = sum(float((g**2).sum()) for g in grads) ** 0.5
    if max_norm / (total + 1e-6) < 1:
        for g in grads:
            g[...] *= max_norm / (total + 1e-6)


class Autoencoder:
    """Lists of parameters, of which the decoder's weight is the encoder's transposed."""

    def __init__(self) -> None:
        rng = np.random.default_rng(15)
        W = 0.3 * rng.normal(size=(6, 4))
        self.encode, self.decode = Affine(W, np.zeros(4)), Affine(W.T, np.zeros(6))
        self.params = [self.encode.W, self.encode.b, self.decode.W, self.decode.b]
        self.grads = [np.zeros_like(p) for p in self.params]

    def forward(self, x: Any) -> Any:
        self.difference = self.decode.forward(self.encode.forward(x)) - x
        return 0.5 * (self.difference**2).sum() / len(x)

    def backward(self) -> None:
        self.encode.backward(self.decode.backward(self.difference / len(self.difference)))
        for g, new in zip(self.grads, (self.encode.dW, self.encode.db, self.decode.dW, self.decode.db), strict=True):
            g[...] = new


def train_with_lists(optimizer: Any) -> SimpleNamespace:
    model, losses = Autoencoder(), []
    x = np.random.default_rng(16).normal(size=(40, 6)) * [3, 2, 1, 0.5, 0.1, 0.1]
    for _ in range(80):
        losses.append(model.forward(x))
        model.backward()
        params, grads = remove_duplicate(model.params, model.grads)
        clip_grads(grads, max_norm=0.5)
        optimizer.update(params, grads)
    return SimpleNamespace(model=model, losses=losses)


class InLists:
    """The book's optimizers once more, for lists: keys are positions."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def update(self, params: list[Any], grads: list[Any]) -> None:
        self.optimizer.update(*({str(i): a for i, a in enumerate(arrays)} for arrays in (params, grads)))


@pytest.mark.parametrize("name", textbook.METHODS)
def test_lists_with_clipping_and_tied_weights_outside(name: str) -> None:
    """New lists at every step, gradients clipped in place, tied weights merged by the caller."""
    theirs = train_with_lists(InLists(textbook.METHODS[name](lr=_lr(name) / 2)))
    ours = train_with_lists(METHODS[name](lr=_lr(name) / 2))
    assert ours.losses == theirs.losses
    assert ours.losses[-1] < ours.losses[0] / 2
    for a, b in zip(ours.model.params, theirs.model.params, strict=True):
        assert same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b))
    assert np.shares_memory(ours.model.encode.W, ours.model.decode.W)
