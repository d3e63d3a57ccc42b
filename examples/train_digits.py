"""Handwritten digits
==================

Train a network with hand-written gradients on handwritten digits, with the arrays of any library.

::

    python examples/train_digits.py --library torch --optimizer adam

The layers and the training loop are written once, against the Array API standard. No line of them knows which
library the arrays belong to, and neither does the optimizer. Needs `pip install anyoptim[examples]`.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from array_api_compat import array_namespace
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import anyoptim as ao

Array = Any
Params = dict[str, Array]


class Method(NamedTuple):
    """An optimizer, its learning rate here (all else is as anyoptim has it), and its colour in the picture."""

    optimizer: type[Any]
    lr: float
    color: str


METHODS = {
    "sgd": Method(ao.SGD, 0.7, "#0072b2"),
    "momentum": Method(ao.Momentum, 0.2, "#c77700"),
    "adagrad": Method(ao.AdaGrad, 0.05, "#00825f"),
    "adam": Method(ao.Adam, 0.005, "#c2316e"),
}
NAMESPACES = {"numpy": "numpy", "cupy": "cupy", "torch": "torch", "jax": "jax.numpy"}
INK = "#3d4853"
BATCH_SIZE = 128
GOAL = 0.97
"""The test accuracy to which the epochs are counted, because all methods end at much the same one."""


class Layer(Protocol):
    """What the network asks of a layer; `anyoptim.Dropout` is one as it stands."""

    def forward(self, x: Array, training: bool, /) -> Array:
        """The output for a batch x."""

    def backward(self, dout: Array, /) -> Array:
        """The gradient of the loss by the last input, given that by the last output."""


class Affine:
    """y = x W + b, with W and b looked up in `params` at each pass: where arrays can't be written, others come in."""

    def __init__(self, params: Params, grads: Params, number: int) -> None:
        self.params, self.grads = params, grads
        self.W, self.b = f"W{number}", f"b{number}"

    def forward(self, x: Array, training: bool) -> Array:
        """One matrix product for the whole batch."""
        self.x = x
        return x @ self.params[self.W] + self.params[self.b]

    def backward(self, dout: Array) -> Array:
        """Puts the gradients of W and b into `grads`, under their names."""
        self.grads[self.W] = self.x.T @ dout
        self.grads[self.b] = array_namespace(dout).sum(dout, axis=0)
        return dout @ self.params[self.W].T


class ReLU:
    """y = x where x is positive, 0 elsewhere."""

    def forward(self, x: Array, training: bool) -> Array:
        """Remembers where x is positive."""
        self.positive = array_namespace(x).astype(x > 0, x.dtype)
        return x * self.positive

    def backward(self, dout: Array) -> Array:
        """The gradient passes where x did."""
        return dout * self.positive


class SoftmaxCrossEntropy:
    """The mean of -log softmax(scores) at the right answers t, which are one-hot rows."""

    def forward(self, scores: Array, t: Array) -> Array:
        """The loss, a 0-d array."""
        xp = array_namespace(scores)
        scores = scores - xp.max(scores, axis=1, keepdims=True)  # so that exp can't overflow
        log_y = scores - xp.log(xp.sum(xp.exp(scores), axis=1, keepdims=True))
        self.y, self.t = xp.exp(log_y), t
        return -xp.sum(t * log_y) / t.shape[0]

    def backward(self) -> Array:
        """The gradient of the loss by the scores."""
        return (self.y - self.t) / self.t.shape[0]


class Network:
    """Affine layers with ReLU and Dropout between them: as many as `params` has W1, b1, W2, b2 ..."""

    def __init__(self, params: Params, dropout_ratio: float = 0.3, seed: int = 0) -> None:
        self.params, self.grads = params, Params()
        self.layers: list[Layer] = [Affine(params, self.grads, 1)]
        for number in range(2, len(params) // 2 + 1):
            dropout = ao.Dropout(dropout_ratio, seed=seed + number)
            self.layers += [ReLU(), dropout, Affine(params, self.grads, number)]
        self.output = SoftmaxCrossEntropy()

    def predict(self, x: Array, training: bool = False) -> Array:
        """The scores of the ten digits, one row for each image."""
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def loss(self, x: Array, t: Array, training: bool = False) -> Array:
        """The cross entropy of a batch."""
        return self.output.forward(self.predict(x, training), t)

    def accuracy(self, x: Array, t: Array) -> Array:
        """The share of the images whose highest score is the right one."""
        xp = array_namespace(x)
        right = xp.argmax(self.predict(x), axis=1) == xp.argmax(t, axis=1)
        return xp.mean(xp.astype(right, x.dtype))

    def gradient(self, x: Array, t: Array) -> Params:
        """The gradient of the training loss, under the keys of `params`."""
        self.loss(x, t, training=True)
        dout = self.output.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        return self.grads


def initial_params(generator: np.random.Generator, sizes: Sequence[int] = (64, 256, 10)) -> Params:
    """Weights of mean 0 and variance 2 / inputs, as He et al. (2015) have them for ReLU; biases of 0."""
    params = Params()
    for number, (n, m) in enumerate(itertools.pairwise(sizes), start=1):
        params[f"W{number}"] = (generator.standard_normal((n, m)) * (2 / n) ** 0.5).astype(np.float32)
        params[f"b{number}"] = np.zeros(m, np.float32)
    return params


def shuffled(generator: np.random.Generator, epochs: int, images: int) -> Array:
    """The images of each batch of each epoch, by number: shape (epochs, batches, BATCH_SIZE)."""
    order = generator.permuted(np.tile(np.arange(images), (epochs, 1)), axis=1)
    batches = images // BATCH_SIZE
    return order[:, : batches * BATCH_SIZE].reshape(epochs, batches, BATCH_SIZE)


class Digits(NamedTuple):
    """Images as rows of 64 pixels, answers as one-hot rows of 10."""

    x_train: Array
    x_test: Array
    t_train: Array
    t_test: Array


def load() -> Digits:
    """The 1,797 digits that come with scikit-learn, as NumPy arrays; every fourth is kept for the test."""
    pixels, labels = load_digits(return_X_y=True)
    x = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)
    t = np.eye(10, dtype=np.float32)[labels]
    return Digits(*train_test_split(x, t, test_size=0.25, stratify=labels, random_state=0))


def array_maker(library: str, device: str | None = None) -> Callable[[Any], Array]:
    """What turns a NumPy array into one of the library: nothing else here knows libraries by name."""
    place = {"device": device} if device else {}
    try:
        namespace = importlib.import_module(NAMESPACES[library])
        namespace.asarray(np.zeros(1), **place)  # CuPy can be imported where there is no GPU
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise SystemExit(f"Can't make arrays of {library} here: {reason}") from None
    return lambda x: namespace.asarray(x, **place)


class Score(NamedTuple):
    """How good a network is, with Dropout at rest."""

    loss: float
    test_accuracy: float


def train(network: Network, optimizer: ao.Optimizer, digits: Digits, order: Array) -> Iterator[Score]:
    """Train on the batches that `order` lists. Yields the score at the start and after each epoch."""
    x_train, x_test, t_train, t_test = digits
    xp = array_namespace(x_train)

    def score() -> Score:
        return Score(float(network.loss(x_train, t_train)), float(network.accuracy(x_test, t_test)))

    yield score()
    for epoch in order:
        for batch in epoch:
            x, t = xp.take(x_train, batch, axis=0), xp.take(t_train, batch, axis=0)
            optimizer.update(network.params, network.gradient(x, t))
        yield score()


def epochs_to_goal(scores: Sequence[Score]) -> int | None:
    """After how many epochs the test accuracy was first at least `GOAL`; None if it never was."""
    return next((epoch for epoch, score in enumerate(scores) if score.test_accuracy >= GOAL), None)


def plot(curves: Mapping[str, Sequence[Score]], path: str) -> None:
    """Draw the loss and the test accuracy of every epoch, and the epochs that it takes to `GOAL`."""
    figure = Figure(figsize=(12.5, 4.4), dpi=160, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 4, 2))
    for name, scores in curves.items():
        optimizer, _, color = METHODS[name]
        left.semilogy([score.loss for score in scores], color=color, linewidth=2, label=optimizer.__name__)
        middle.plot([score.test_accuracy for score in scores], color=color, linewidth=2)
        first = epochs_to_goal(scores)
        bar = right.bar(optimizer.__name__, first or 0, color=color)
        right.bar_label(bar, ["never" if first is None else str(first)], color=color, fontsize=12, padding=2)
    middle.set_ylim(min(0.9, *(scores[-1].test_accuracy for scores in curves.values())), 1)
    middle.axhline(GOAL, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    middle.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    titles = {left: "Training loss", middle: "Test accuracy", right: f"Until {GOAL:.0%}"}
    labels = {left: "cross entropy", middle: "share of right answers", right: "epochs"}
    for axes, title in titles.items():
        axes.set_title(title, loc="left", color=INK, fontsize=13, fontweight="bold")
        axes.set_xlabel("optimizer" if axes is right else "epoch", color=INK)
        axes.set_ylabel(labels[axes], color=INK)
        axes.grid(axis="y" if axes is right else "both", color="#e3e8ed")
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        axes.tick_params(which="both", length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
    right.set_xticks([])
    right.margins(y=0.1)
    figure.legend(loc="outside upper center", ncols=len(curves), frameon=False, fontsize=12, labelcolor="linecolor")
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Train, draw and report. Returns the test accuracy of each optimizer."""
    parser = argparse.ArgumentParser(description="Compare optimizers on handwritten digits, with any library's arrays.")
    parser.add_argument("--library", choices=NAMESPACES, default="numpy", help="whose arrays (default: %(default)s)")
    parser.add_argument("--device", help="where torch keeps its tensors, such as cuda (default: where it likes)")
    parser.add_argument(
        "--optimizer", choices=[*METHODS, "all"], default="all", help="one, or all in turn, the default"
    )
    parser.add_argument("--epochs", type=int, default=25, help="passes over the images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and Dropout (default: %(default)s)")
    parser.add_argument("--output", default="learning_curves.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)

    asarray = array_maker(options.library, options.device)
    digits = Digits(*map(asarray, load()))
    generator = np.random.default_rng(options.seed)
    initial = initial_params(generator)
    order = asarray(shuffled(generator, options.epochs, digits.x_train.shape[0]))

    console = Console()
    table = Table("optimizer", title=f"Handwritten digits with {options.library}")
    for column in ("learning rate", "test accuracy", f"epochs to {GOAL:.0%}", "training loss", "seconds"):
        table.add_column(column, justify="right")
    curves: dict[str, list[Score]] = {}
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}")
    with Progress(*columns, console=console) as progress:
        for name in METHODS if options.optimizer == "all" else [options.optimizer]:
            optimizer, lr, color = METHODS[name]
            label = f"[{color}]{optimizer.__name__:8}"
            task = progress.add_task(label, total=options.epochs, status="")
            start = time.perf_counter()
            # A copy, because NumPy and torch stay in the memory that they are given, and train there.
            network = Network({key: asarray(w.copy()) for key, w in initial.items()}, seed=options.seed)
            curves[name] = []
            for epoch, score in enumerate(train(network, optimizer(lr=lr), digits, order)):
                curves[name].append(score)
                status = f"loss {score.loss:.4f}  test accuracy {score.test_accuracy:.1%}"
                progress.update(task, completed=epoch, status=status)
            first = epochs_to_goal(curves[name])
            reached = f"{score.test_accuracy:.1%}", "never" if first is None else f"{first}", f"{score.loss:.4f}"
            table.add_row(label, f"{lr:g}", *reached, f"{time.perf_counter() - start:.1f}")

    plot(curves, options.output)
    console.print(table)
    console.print(f"Learning curves: {options.output}")
    return {name: scores[-1].test_accuracy for name, scores in curves.items()}


if __name__ == "__main__":
    main()
