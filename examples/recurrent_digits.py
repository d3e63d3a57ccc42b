"""A recurrent network
===================

Read handwritten digits line by line, with a recurrent network whose gradients are written by hand.

::

    python examples/recurrent_digits.py

The eight lines of an image are eight steps through time. Variational dropout keeps one mask over all of them, forwards
and then backwards. Training takes a second where nothing else runs, and up to a minute and a half where other programs
keep the cores busy, for NumPy's threads then wait for each other; `OPENBLAS_NUM_THREADS=1` before the command spares
that. A bar says how far it is. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import anyoptim as ao

Array = Any
Params = dict[str, Array]

LINES, PIXELS, STATE, DIGITS = 8, 8, 96, 10
BATCH_SIZE = 64


def initial_params(generator: np.random.Generator, state: int = STATE) -> Params:
    """Weights of variance 1 / inputs, an orthogonal matrix from state to state, biases of 0."""

    def normal(n: int, m: int) -> Array:
        return generator.standard_normal((n, m)) / n**0.5

    params = {"Wx": normal(PIXELS, state), "Wh": np.linalg.qr(normal(state, state))[0], "b": np.zeros(state)}
    params |= {"V": normal(state, DIGITS), "c": np.zeros(DIGITS)}
    return {key: p.astype(np.float32) for key, p in params.items()}


class Reader:
    """h_t = tanh(x_t Wx + h_(t-1) Wh + b) over the lines x_t of an image, and scores h V + c of the last state.

    Dropout stands in front of Wh and V, with a key each: in front of Wh an image has one mask for all of its lines.
    """

    def __init__(self, params: Params, dropout_ratio: float, seed: int = 0) -> None:
        self.params = params
        self.on_state = ao.VariationalDropout(dropout_ratio, inverted=True, seed=ao.random.spawn(seed, 0))
        self.on_output = ao.Dropout(dropout_ratio, inverted=True, seed=ao.random.spawn(seed, 1))

    def scores(self, x: Array, training: bool = False) -> Array:
        """The scores of the ten digits, one row for each image of shape (LINES, PIXELS)."""
        p = self.params
        if training:
            self.on_state.new_sequence()
        h = np.zeros((x.shape[0], p["b"].size), x.dtype)
        self.steps = []
        for t in range(LINES):
            line, state = x[:, t], self.on_state.forward(h, training)
            h = np.tanh(line @ p["Wx"] + state @ p["Wh"] + p["b"])
            self.steps.append((line, state, h))
        self.last = self.on_output.forward(h, training)
        return self.last @ p["V"] + p["c"]

    def loss(self, x: Array, t: Array, training: bool = False) -> Array:
        """The mean of -log softmax(scores) at the right answers t, which are one-hot rows."""
        scores = self.scores(x, training)
        scores = scores - scores.max(1, keepdims=True)  # so that exp can't overflow
        log_y = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        self.dscores = (np.exp(log_y) - t) / t.shape[0]
        return -(t * log_y).sum() / t.shape[0]

    def gradient(self, x: Array, t: Array) -> Params:
        """The gradient of the training loss, under the keys of `params`: back through time, line by line."""
        self.loss(x, t, training=True)
        p = self.params
        grads = {key: np.zeros_like(a) for key, a in p.items()}
        grads["V"], grads["c"] = self.last.T @ self.dscores, self.dscores.sum(0)
        dh = self.on_output.backward(self.dscores @ p["V"].T)
        for line, state, h in reversed(self.steps):
            da = dh * (1 - h * h)
            grads["Wx"] += line.T @ da
            grads["Wh"] += state.T @ da
            grads["b"] += da.sum(0)
            dh = self.on_state.backward(da @ p["Wh"].T)  # the same mask as forwards
        return grads

    def accuracy(self, x: Array, t: Array) -> float:
        """The share of the images whose highest score is the right one."""
        return float((self.scores(x).argmax(1) == t.argmax(1)).mean())


def load() -> list[Array]:
    """Images and answers to train with and, every fourth, to test with: x_train, x_test, t_train, t_test."""
    pixels, labels = load_digits(return_X_y=True)
    x = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32).reshape(-1, LINES, PIXELS)
    t = np.eye(DIGITS, dtype=np.float32)[labels]
    return list(train_test_split(x, t, test_size=0.25, stratify=labels, random_state=0))


def train(reader: Reader, x: Array, t: Array, epochs: int, generator: np.random.Generator) -> None:
    """Adam, with the length of the gradient clipped, as recurrent networks like it; lr goes down to 0."""
    steps = epochs * (x.shape[0] // BATCH_SIZE)
    schedule = ao.schedules.warmup_cosine(0.004, steps, steps // 20)
    optimizer = ao.chain(ao.ClipGlobalNorm(1.0), ao.Adam(lr=schedule))
    for _ in track(range(epochs), "Training"):
        order = generator.permutation(x.shape[0])
        for i in range(x.shape[0] // BATCH_SIZE):
            batch = order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE]
            optimizer.update(reader.params, reader.gradient(x[batch], t[batch]))


def main(argv: Sequence[str] | None = None) -> float:
    """Train and report. Returns the test accuracy."""
    parser = argparse.ArgumentParser(description="Read handwritten digits line by line, with variational dropout.")
    parser.add_argument("--dropout", type=float, default=0.2, help="the ratio (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and dropout (default: %(default)s)")
    options = parser.parse_args(argv)

    x_train, x_test, t_train, t_test = load()
    generator = np.random.default_rng(options.seed)
    reader = Reader(initial_params(generator), options.dropout, options.seed)
    start = time.perf_counter()
    train(reader, x_train, t_train, options.epochs, generator)
    seconds = time.perf_counter() - start

    table = Table("images", title=f"Handwritten digits, line by line: {seconds:.1f} s of training")
    table.add_column("loss", justify="right")
    table.add_column("accuracy", justify="right")
    for name, x, t in (("to train with", x_train, t_train), ("to test with", x_test, t_test)):
        table.add_row(name, f"{float(reader.loss(x, t)):.3f}", f"{reader.accuracy(x, t):.1%}")
    Console().print(table)
    return reader.accuracy(x_test, t_test)


if __name__ == "__main__":
    main()
