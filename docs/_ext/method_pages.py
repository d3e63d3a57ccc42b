"""A page for each method, and one with all of their paths, made of the package as it is before Sphinx reads."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from reference_pages import heading, table, written
from sphinx.application import Sphinx

import anyoptim as ao
from tests.support.features import FEATURES, PEERS, names

__all__ = ["setup"]

METHODS: dict[str, type[Any]] = {name: getattr(ao, name) for name in ao.optimizers.__all__}
FEATURE = {feature.anyoptim: feature for feature in FEATURES["Methods"]}
RATES = [digit * 10.0**power for power in range(-3, 3) for digit in (1, 2, 5)]
COLOR, GRAY = "#c2316e", "#7c8794"
"""Of the path, and of what stands beside the valley, on pages of either colour."""

FAMILIES = {
    "Along the gradient": (
        "One learning rate for all elements. Steps are as long as gradients are, so that lr depends on the problem.",
        ["sgd"],
    ),
    "By the squares of gradients": (
        "Each element has a learning rate of its own, by the gradients that it has seen.",
        ["adagrad"],
    ),
    "Adam and its relatives": (
        "Both: a mean of gradients, divided by the root of the mean of their squares, or by something like it.",
        ["adam", "nadam", "belief"],
    ),
    "By signs": ("Only the sign of an element counts; lr says how far it goes.", ["signs"]),
    "By the length of a parameter": ("For large batches: steps in proportion to what they change.", ["layerwise"]),
    "For matrices": ("A matrix is more than its elements. Vectors go to another method.", ["matrices"]),
    "Without a schedule": (
        "For training that need not know its end, or its learning rate.",
        ["schedule_free"],
    ),
}
"""What is told of some modules of `anyoptim.optimizers` together; what is of no family comes last."""

ENGINES = {
    "blocked": ("NumPy calls over blocks of the arrays", "python"),
    "compiled": ("a loop that Numba compiles", "python"),
    "cuda": ("a CUDA kernel, which has not yet run on a device", "cuda"),
}

CHOOSING = """\
How {count} methods move, and what each is called elsewhere. The pictures show the paths that they take down one valley,
``f(x, y) = x**2/20 + y**2``, which is steep across and almost flat along: {steps} steps from the ring at the upper left
towards the star. The learning rate is the one, of 1, 2 or 5 times a power of ten, whose path is lowest on average;
everything else is as it is by default. The parameter is a matrix of one row, because some methods are for matrices.

Two numbers without noise are not a network: a picture shows how a method moves, and not how good it is.
:doc:`../problems` says what the methods reach on three small problems.

"""

PAGE = """\
.. autoclass:: anyoptim.{name}

In the signature, the type of a hyperparameter says what it may be: ``Nonnegative`` is finite and at least 0,
``Fraction`` at least 0 and below 1, ``Positive`` above 0, ``UnitInterval`` at least 0 and at most 1, and ``Number``
anything but NaN; other types say it in the description. Each is a number, or a schedule: a function of the step number;
but what is ``Final`` is a number that stays as it is.

Its path
--------

.. image:: paths/{name}.png
   :alt: The path of {name} down a narrow valley

{steps} steps down ``f(x, y) = x**2/20 + y**2``. :doc:`The page of all methods <index>` has all paths side by side, and
says how lr was chosen.

In other libraries
------------------

{peers}A name says that there is such a thing; where definitions differ, the text above says how. Constructors with
their arguments and defaults are in :doc:`../reference/anyoptim.compat`.

As it is written
----------------

``x`` is the gradient, or what the stages before made of it; ``c`` has the numbers that ``coefficients`` gives or, where
there is no such function, the hyperparameters. What comes back is subtracted from ``p``; the new slots follow it.

{source}
As it is run
------------

{kernels}"""


def _valley() -> ModuleType:
    """The example that draws the paths of four optimizers, which has the valley."""
    path = Path(__file__).parents[2] / "examples" / "optimizer_paths.py"
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _path(valley: Any, optimizer: ao.Optimizer) -> list[tuple[float, float]]:
    """The points that an optimizer visits: the start, and where each step leads."""
    p = np.array([[valley.START["x"], valley.START["y"]]])
    points = [(float(p[0, 0]), float(p[0, 1]))]
    for _ in range(valley.STEPS):
        slope = valley.gradient(*points[-1])
        optimizer.update(p, np.array([[slope["x"], slope["y"]]]))
        points.append((float(p[0, 0]), float(p[0, 1])))
    return points


def _lowest(valley: Any, method: type[Any]) -> tuple[float, list[tuple[float, float]]]:
    """The learning rate whose path is lowest on average, and that path."""
    with np.errstate(all="ignore"):  # some rates are far too large
        paths = [(lr, _path(valley, method(lr=lr))) for lr in RATES]
        return min(paths, key=lambda found: np.nan_to_num(np.mean(valley.height(*np.array(found[1]).T)), nan=np.inf))


def _draw(valley: Any, name: str, to: Path) -> None:
    """The picture of a method's path."""
    lr, points = _lowest(valley, METHODS[name])
    figure = Figure(figsize=(4.4, 2.35), dpi=150, layout="constrained", facecolor="none")
    axes = figure.subplots()
    valley.draw(axes, points, "", lr, COLOR)
    axes.set_title(axes.get_title("right"), loc="right", color=GRAY, fontsize=10)
    axes.tick_params(labelcolor=GRAY)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(GRAY)
    to.parent.mkdir(exist_ok=True)
    figure.savefig(to)


def _code(text: str, language: str) -> str:
    return f".. code-block:: {language}\n\n{textwrap.indent(text.rstrip(), '   ')}\n\n"


def _functions(declared: type[Any]) -> str:
    """What a class declares: what slots start as, and functions, also those of methods or stages which it extends."""
    found: dict[str, str] = {"starts": f"starts = {declared.starts!r}\n"} if declared.starts else {}
    for cls in declared.__mro__:
        if cls.__module__.startswith(("anyoptim._core.", "anyoptim._stage.")):
            break
        for name, value in vars(cls).items():
            function = getattr(value, "__func__", value)
            made = "<locals>" in getattr(
                function, "__qualname__", ""
            )  # by another function, as `real_only` makes `refusal`
            if inspect.isfunction(function) and not name.startswith("__") and not made:
                found.setdefault(name, textwrap.dedent(inspect.getsource(function)))
    return "\n".join(found.values())


def _source(method: type[Any]) -> str:
    """What a method declares; of one that is a chain, what its stages do."""
    stages = [type(stage) for stage in method().stages]
    if stages == [method]:
        return _code(_functions(method), "python")
    return _code("\n\n".join(f"# {stage.__name__}\n\n{_functions(stage)}" for stage in stages), "python")


def _kernels(method: type[Any]) -> str:
    """What each engine makes, for readers to open; of a method that sees whole arrays there is none."""
    if any(stage.array_rule for stage in method().stages):
        return "It sees whole arrays, so that no kernel is made of it: the array library's own operations run it.\n"
    return "The code that engines make of it, in float32:\n\n" + "".join(
        f".. raw:: html\n\n   <details><summary><code>{engine}</code>: {what}</summary>\n\n"
        f"{_code(method().kernel_source(engine), language)}.. raw:: html\n\n   </details>\n\n"
        for engine, (what, language) in ENGINES.items()
    )


def _page(name: str, steps: int) -> str:
    method, feature = METHODS[name], FEATURE[name]
    called = [", ".join(f"``{peer}.{one}``" for one in names(getattr(feature, peer))) for peer in PEERS]
    peers = table([(peer, cell or "nothing of the kind") for peer, cell in zip(PEERS, called, strict=True)])
    page = PAGE.format(name=name, steps=steps, peers=peers, source=_source(method), kernels=_kernels(method))
    return heading(name) + page


def _figure(name: str) -> str:
    what = "" if FEATURE[name].what == name else f": {FEATURE[name].what}"
    figure = f".. figure:: paths/{name}.png\n   :target: {name}.html\n   :alt: The path of {name}\n\n"
    return textwrap.indent(f"{figure}   :doc:`{name} <{name}>`{what}\n\n", "   ")


def _index(steps: int) -> str:
    rooms: dict[str, list[str]] = {}
    for name, method in METHODS.items():
        rooms.setdefault(method.__module__.rpartition(".")[2], []).append(name)
    told = {module for _, modules in FAMILIES.values() for module in modules}
    families = {**FAMILIES, "Others": ("", sorted(rooms.keys() - told))}
    parts = [heading("Methods"), CHOOSING.format(count=len(METHODS), steps=steps)]
    for title, (text, modules) in families.items():
        if modules:
            parts += [heading(title, "-"), f"{text}\n\n.. container:: paths\n\n"]
            parts += [_figure(name) for module in modules for name in rooms[module]]
    toctree = "".join(f"   {name}\n" for name in sorted(METHODS, key=str.lower))
    return "".join(parts) + f".. toctree::\n   :hidden:\n\n{toctree}"


def generate(app: Sphinx) -> None:
    """Write the pages and draw the paths."""
    folder, valley = Path(app.srcdir) / "methods", _valley()
    for name in METHODS:
        written(folder / f"{name}.rst", _page(name, valley.STEPS))
        _draw(valley, name, folder / "paths" / f"{name}.png")
    written(folder / "index.rst", _index(valley.STEPS))


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's way in."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
