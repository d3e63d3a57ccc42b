"""The public names of anyoptim, and what is written about each: for the reference of the site and for its tests."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["MODULES", "NAMES", "about", "home"]


def _modules(name: str) -> list[str]:
    """A public module and those in it: packages without an underscore, and modules that `__all__` names."""
    module = importlib.import_module(name)
    found = [name]
    folder = Path(str(module.__file__)).parent
    for path in sorted(folder.iterdir()) if hasattr(module, "__path__") else []:
        package = path.is_dir() and (path / "__init__.py").exists() and not path.name.startswith("_")
        if package or (path.suffix == ".py" and path.stem in module.__all__):
            found += _modules(f"{name}.{path.stem}")
    return found


def _names() -> dict[str, Any]:
    found: dict[int, str] = {}
    for module in sorted(MODULES, key=lambda name: name.count(".")):
        for name in importlib.import_module(module).__all__:
            value = getattr(importlib.import_module(module), name)
            if not isinstance(value, ModuleType):
                found.setdefault(id(value), f"{module}.{name}")
    return {name: _value(name) for name in found.values()}


def _value(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def home(name: str) -> str:
    """The module in which a public name is defined."""
    module, _, attribute = name.rpartition(".")
    value = _value(name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__module__
    imports = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module and attribute in [alias.name for alias in node.names]:
            return home(f"{node.module}.{attribute}")
    return module


@functools.cache
def _tree(module: str) -> ast.Module:
    path = Path(str(importlib.import_module(module).__file__))
    return ast.parse(path.read_text(encoding="utf-8"))


def about(name: str) -> str:
    """The docstring of a class or function, its own; of another value the string that stands below it."""
    value = _value(name)
    if inspect.isclass(value):
        return inspect.cleandoc(vars(value).get("__doc__") or "")
    if inspect.isfunction(value):
        return inspect.cleandoc(value.__doc__ or "")
    for node, after in itertools.pairwise(_tree(home(name)).body):
        named = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        targets = [ast.unparse(target) for target in named]
        if name.rpartition(".")[2] in targets and isinstance(after, ast.Expr):
            return inspect.cleandoc(str(ast.literal_eval(after.value)))
    return ""


MODULES = _modules("anyoptim")
NAMES = _names()
"""Each value by its shortest name: `anyoptim.Adam`, which is also `anyoptim.optimizers.Adam`."""
