"""torch's optimizers on the CPU: a plain loop, one call for all parameters (foreach), one kernel (fused)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import Candidate
from benchmarks.machine import CORES
from benchmarks.methods import CHAINS, DECAY, MAX_NORM, METHODS, numbers
from benchmarks.names import TORCH, threads
from benchmarks.problem import Drawn, Problem
from benchmarks.reference import Reference

__all__ = ["IMPLEMENTATIONS", "candidate", "installed", "optimizer", "ways"]

IMPLEMENTATIONS: Mapping[str, Mapping[str, bool]] = dict(
    zip(TORCH, ({"foreach": False, "fused": False}, {"foreach": True}, {"fused": True}), strict=True)
)
"""The choice among implementations, as torch's optimizers take it."""


def installed() -> bool:
    """Whether there is a torch."""
    return importlib.util.find_spec("torch") is not None


def optimizer(method: str, tensors: Sequence[Any], **implementation: bool) -> Any:
    """torch's optimizer for a method, or for the one in a chain. Momentum is SGD's."""
    import torch

    given = numbers(method)
    match method:
        case "SGD" | "Momentum":
            return torch.optim.SGD(tensors, **given, **implementation)
        case "AdaGrad":
            return torch.optim.Adagrad(tensors, **given, **implementation)
        case _:
            betas = given.pop("beta1"), given.pop("beta2")
            kind = torch.optim.AdamW if "weight_decay" in given else torch.optim.Adam
            return kind(tensors, betas=betas, **given, **implementation)


def ways() -> dict[str, Callable[[], object]]:
    """One thread, or all of them."""
    import torch

    return {threads(n): partial(torch.set_num_threads, n) for n in sorted({1, CORES})}


def candidate(name: str, method: str, problem: Problem, reference: Reference) -> Candidate:
    """One of the implementations, on parameters in NumPy's memory and with gradients in theirs, as a backward has it.

    Around Adam in a chain: torch's own clipping, and averaging as in `torch.optim.swa_utils`; where the loss is scaled,
    its GradScaler, which skips what is not finite.
    """
    import torch

    params = {k: torch.nn.Parameter(torch.from_numpy(a)) for k, a in problem.start().items()}
    average = {k: p.detach().clone() for k, p in params.items()} if method in CHAINS else {}
    tensors, averages = list(params.values()), list(average.values())
    implementation = IMPLEMENTATIONS[name]
    adam, scale = optimizer(method, tensors, **implementation), METHODS[method].scale
    plain = implementation.get("foreach") is False
    # Disabled, it does nothing. The scale stays.
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**9, enabled=scale != 1)
    scaler.scale(torch.zeros(()))  # which makes it ready

    def take(drawn: Drawn) -> list[Any]:
        grads = [torch.from_numpy(g) for g in drawn.fresh(scale).values()]
        for p, g in zip(tensors, grads, strict=True):
            p.grad = g
        return grads

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def clipped_and_averaged(_: object) -> None:
        scaler.unscale_(adam)
        torch.nn.utils.clip_grad_norm_(tensors, MAX_NORM, foreach=not plain)
        scaler.step(adam)
        scaler.update()
        if plain:
            for a, p in zip(averages, tensors, strict=True):
                a.lerp_(p, 1 - DECAY)
        else:
            torch._foreach_lerp_(averages, tensors, 1 - DECAY)

    def off() -> float:
        return reference.deviation(*({k: t.detach().numpy() for k, t in of.items()} for of in (params, average)))

    turn = clipped_and_averaged if method in CHAINS else lambda _: adam.step()
    return Candidate(name, turn, off, take, ways())
