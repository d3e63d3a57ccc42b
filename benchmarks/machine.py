"""What a timing depends on beside the code: the machine and the versions, without names or paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import numpy as np

__all__ = ["CORES", "PEERS", "ROOT", "machine", "memory"]

ROOT = Path(__file__).resolve().parent.parent
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PEERS = ("torch", "optax")
"""Whose candidates are left out where they are not installed."""


def machine() -> dict[str, str | int]:
    """A description of this machine."""
    return {
        "cpu": _cpu(),
        "cores": CORES,
        "memory_gib": round(memory() / 2**30),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": _version("numba"),
        **{name: _version(name) for name in (*PEERS, "jax")},
        "anyoptim": _version("anyoptim", "(from source)"),
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "unknown"
    pairs = (line.partition(":") for line in text.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    # Virtual machines hide the model's name; family and model still tell the generation.
    numbers = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return fields.get("model name", platform.machine()) + numbers


def memory() -> int:
    """In bytes; 0 where the system doesn't tell."""
    names = ("SC_PAGE_SIZE", "SC_PHYS_PAGES")
    sizes = [os.sysconf(name) for name in names if name in getattr(os, "sysconf_names", ())]
    return sizes[0] * sizes[1] if len(sizes) == len(names) else 0


def _version(distribution: str, otherwise: str = "missing") -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return otherwise


def _commit() -> str:
    """The last commit that touched the package, marked where the package has changed since."""
    commit = _git("log", "-1", "--format=%h", "--", "anyoptim")
    return commit + (" with changes" if commit and _git("status", "--porcelain", "--", "anyoptim") else "")


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
