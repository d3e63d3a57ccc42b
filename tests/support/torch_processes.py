"""One of two torch processes: updates, norms, errors and checkpoints of DTensors, and modules under FSDP2."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import anyoptim as ao
from tests.support import processes
from tests.support.chains import CHAINS, Asking
from tests.support.libraries import COMPOSED, METHODS, same_bits

MADE: dict[str, Callable[[], ao.Optimizer]] = {
    "SGD": lambda: ao.SGD(lr=0.1),
    "Adam": lambda: ao.Adam(lr=0.1),
    "clip": lambda: ao.chain(ao.ClipGlobalNorm(0.5), ao.Adam(lr=0.1), ao.EMA(0.9)),
    "LAMB": lambda: ao.LAMB(lr=0.1),
    "ask": lambda: ao.chain(Asking(), ao.SGD(lr=0.1)),
    "gates": lambda: ao.chain(ao.Accumulate(2), ao.LossScale(initial=2.0), ao.SkipNonFinite(), ao.Adam(lr=0.1)),
    "metrics": lambda: ao.chain(ao.Metrics(), ao.SGD(lr=0.1)),
    "Adafactor": lambda: ao.Adafactor(lr=0.1),
    "Shampoo": lambda: ao.Shampoo(lr=0.1),
    "Muon": lambda: ao.Muon(lr=0.1),
    "SGLD": lambda: ao.SGLD(lr=0.1),
}
MADE_OF_PARTS = {name: lambda of=of: of(None) for name, of in CHAINS.items()} | METHODS | COMPOSED
WHOLE = {"Adafactor", "Shampoo", "Muon", "SGLD"}
ENGINES: dict[str, tuple[ao.EngineName, ...]] = {
    "Adam": ("compiled", "blocked", "portable"),
    "clip": ("compiled", "portable"),
    "LAMB": ("compiled",),
}
SHAPES = {"W": (8, 6), "V": (4, 8), "one": (1, 3), "b": (7,), "s": (), "T": (4, 3, 2)}
"""The second process has nothing of `one`."""
PLACEMENTS = {"W": Shard(0), "V": Shard(1), "one": Shard(0), "b": Shard(0), "s": Replicate(), "T": Replicate()}


def drawn(rng: np.random.Generator, name: str) -> dict[str, Any]:
    keys = ("W", "V") if name in WHOLE else SHAPES
    return {k: np.asarray(rng.normal(size=SHAPES[k]), np.float32) for k in keys}


def put(mesh: Any, arrays: dict[str, Any]) -> dict[str, Any]:
    return {k: distribute_tensor(torch.tensor(a), mesh, [PLACEMENTS[k]], src_data_rank=None) for k, a in arrays.items()}


def check(mesh: Any, name: str, engine: ao.EngineName | None, folder: Path) -> None:
    """Parts end with NumPy's numbers on whole arrays; but for methods of whole matrices, with its bits."""
    rng = np.random.default_rng(1)
    first, grads = drawn(rng, name), [drawn(rng, name) for _ in range(4)]
    if name == "gates":
        grads[3]["V"][0, 7] = np.nan  # which the second process has
    whole, alone = processes.alone(MADE[name](), first, grads)

    def compare(found: dict[str, Any]) -> None:
        for k, a in found.items():
            assert a.placements == (PLACEMENTS[k],)
            values = a.full_tensor().numpy()
            np.testing.assert_allclose(values, whole[k], rtol=2e-5, atol=2e-5, err_msg=f"{name} {k}")
            assert name in WHOLE or engine == "portable" or same_bits(values, whole[k])

    optimizer, params = MADE[name](), put(mesh, first)
    optimizer.engine = engine
    begins = {k: a.to_local().data_ptr() for k, a in params.items()}
    for g in grads:
        optimizer.update(params, put(mesh, g))
    compare(params)
    assert begins == {k: a.to_local().data_ptr() for k, a in params.items()}
    if engine is not None:
        assert {share.engine for share in optimizer.explain(params, put(mesh, grads[0]))} == {engine}
    processes.reports_equal(optimizer, alone)
    p, state = put(mesh, first), optimizer.init(put(mesh, first))
    for g in grads:
        p, state = optimizer.step(p, put(mesh, g), state)
    compare(p)
    if engine is not None:
        return
    path = folder / f"{name}.safetensors"
    ao.save(path, params=params, optimizer=optimizer, extra={"number": dist.get_rank()})
    saved = ao.load(path, like=params)
    assert saved.optimizer is not None
    assert saved.extra == {"number": 0}
    compare(saved.params)
    one, two = MADE[name](), MADE[name]()
    one.load_state_dict(saved.optimizer, saved.params)
    two.load_state_dict(optimizer.state_dict(), params)
    clones = {k: a.clone() for k, a in params.items()}
    for each, of in ((one, saved.params), (two, clones), (optimizer, params)):
        each.update(of, put(mesh, grads[0]))
    for k, a in params.items():
        assert torch.equal(a.to_local(), saved.params[k].to_local()), (name, k)
        assert torch.equal(a.to_local(), clones[k].to_local()), (name, k)


def check_bits(mesh: Any, name: str, make: Callable[[], ao.Optimizer]) -> None:
    """Parts end with the bits of whole arrays, whatever the method or the stages."""
    rng = np.random.default_rng(2)
    first, grads = drawn(rng, name), [drawn(rng, name) for _ in range(3)]
    whole, _ = processes.alone(make(), first, grads)
    optimizer, params = make(), put(mesh, first)
    for g in grads:
        optimizer.update(params, put(mesh, g))
    for k, a in params.items():
        assert same_bits(a.full_tensor().numpy(), whole[k]), (name, k)


def check_errors(mesh: Any, folder: Path) -> None:
    """Layouts that do not fit are refused by name, and nothing has moved; those that can be made to fit are."""
    params = put(mesh, {"W": np.ones((8, 6), np.float32)})
    plain = torch.ones(8, 6)
    optimizer = ao.SGD(lr=1.0)
    with pytest.raises(TypeError, match=r"grads\['W'\] is a torch array but params\['W'\] is a torch DTensor array"):
        optimizer.update(params, {"W": plain})
    with pytest.raises(TypeError, match=r"grads\['W'\] is a torch DTensor array but params\['W'\] is a torch array"):
        optimizer.update({"W": plain}, params)
    summed = DTensor.from_local(torch.ones(8, 6), mesh, [Partial()])
    with pytest.raises(TypeError, match=r"params\['W'\] has the placements \(Partial\(sum\),\); wanted Shard or Repl"):
        optimizer.update({"W": summed}, params)
    with pytest.raises(ValueError, match=r"params\['W'\] has shape \(8, 6\) but grads\['W'\] has shape \(8, 5\)"):
        optimizer.update(params, {"W": distribute_tensor(torch.ones(8, 5), mesh, [Shard(0)])})
    assert params["W"].to_local().tolist() == [[1.0] * 6] * 4
    # A gradient whose parts are to be added up, as those of tensor parallelism may be, or which lies in other pieces.
    optimizer.update(params, {"W": summed})
    optimizer.update(params, {"W": distribute_tensor(torch.ones(8, 6), mesh, [Shard(1)])})
    assert params["W"].to_local().tolist() == [[1.0 - 2 - 1] * 6] * 4
    with pytest.raises(OSError, match="no folder" if dist.get_rank() == 0 else "not written by the first of the pr"):
        ao.save(folder / "none" / "x.safetensors", params=params)
    other = init_device_mesh("cpu", (2, 1))
    with pytest.raises(ValueError, match=r"params\['W'\] is on device DeviceMesh.* but grads\['W'\] is on device Dev"):
        optimizer.update(params, {"W": distribute_tensor(torch.ones(8, 6), other, [Shard(0), Replicate()])})


def check_beside(mesh: Any) -> None:
    """Arrays beside parameters, cut as these are or otherwise, give the bits of whole ones; tensors are refused."""
    rng = np.random.default_rng(1)
    w, g, rates = (rng.random((7, 3)).astype(np.float32) for _ in range(3))
    mask = rates > 0.3

    def steps(w: Any, g: Any, rates: Any, mask: Any) -> Any:
        optimizer = ao.chain(ao.ClipGlobalNorm(0.5), ao.Momentum(lr=rates), ao.Support(mask))
        return [optimizer.update(w, g) for _ in range(3)][-1]

    expected = steps(w.copy(), g, rates, mask)
    p, x = (distribute_tensor(torch.tensor(a), mesh, [Shard(0)], src_data_rank=None) for a in (w, g))
    for placement in (Shard(0), Replicate()):
        beside = [distribute_tensor(torch.tensor(a), mesh, [placement], src_data_rank=None) for a in (rates, mask)]
        assert same_bits(steps(p.clone(), x, *beside).full_tensor().numpy(), expected)
    with pytest.raises(TypeError, match=r"Momentum.lr is a torch array but params is a torch DTensor array"):
        steps(p, x, torch.tensor(rates), torch.tensor(mask))


def check_autograd(mesh: Any) -> None:
    """A pending backward notices that what it needs was written to, whichever engine did it; bfloat16 moves, too."""
    for engine in ("compiled", "blocked", "portable"):
        p = {"W": distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)]).requires_grad_()}
        loss, optimizer = (p["W"] * p["W"]).sum(), ao.SGD(lr=0.5, engine=engine)
        optimizer.update(p, {"W": p["W"].detach().clone()})
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    half = {"W": distribute_tensor(torch.ones(4, 2, dtype=torch.bfloat16), mesh, [Shard(0)])}
    adam = ao.Adam(lr=0.5)
    adam.update(half, {"W": half["W"].clone()})
    assert half["W"].to_local().tolist() == [[0.5] * 2] * 2
    assert adam.state is not None
    assert adam.state.slots["m"]["W"].dtype == torch.float32


def check_both_axes() -> None:
    """On a mesh of two axes, along one of which all is replicated, nothing counts twice.

    The parts are of very different sizes, and so begin with other digits of the norm, which has the bits of the whole.
    """
    mesh, w = init_device_mesh("cpu", (1, 2)), np.outer([1e-9, 1e5], [1.1, 2.2, 3e3, 4e4]).astype(np.float32)
    whole = ao.chain(ao.Metrics(), ao.SGD())
    whole.update({"W": w.copy()}, {"W": w})
    for placements in ([Replicate(), Shard(0)], [Shard(0), Replicate()], [Shard(0), Shard(1)]):
        p = {"W": distribute_tensor(torch.tensor(w), mesh, placements)}
        optimizer = ao.chain(ao.Metrics(), ao.SGD())
        optimizer.update(p, {"W": p["W"].clone()})
        assert optimizer.last_metrics["gradient"]["W"].norm == whole.last_metrics["gradient"]["W"].norm


def check_dropout(mesh: Any) -> None:
    """The mask of the elements, in whichever process they are."""
    x = drawn(np.random.default_rng(1), "Dropout")
    for k, a in put(mesh, x).items():
        ours, theirs = ao.Dropout(0.5, seed=1), ao.Dropout(0.5, seed=1)
        for found, wanted in (
            (ours.forward(a, True), theirs.forward(x[k], True)),
            (ours.backward(a), theirs.backward(x[k])),
        ):
            assert found.placements == a.placements
            assert same_bits(found.full_tensor().numpy(), wanted)


def check_ranks() -> None:
    """Plain tensors of which each process has its own rows, under a process group, have the bits of NumPy's whole ones.

    What one process refuses is raised on both.
    """
    rng, rank = np.random.default_rng(1), dist.get_rank()
    first, grads = rng.normal(size=(7, 3)), rng.normal(size=(4, 7, 3))
    expected, _ = processes.alone(MADE["clip"](), {"W": first}, [{"W": g} for g in grads])
    rows, optimizer = slice(3 * rank, 3 + 4 * rank), MADE["clip"]()
    optimizer.comm = dist.group.WORLD
    params = {"W": torch.tensor(first[rows])}
    for g in grads:
        optimizer.update(params, {"W": torch.tensor(g[rows])})
    assert same_bits(params["W"].numpy(), expected["W"][rows])
    wrong = torch.ones(2 + rank, 3, dtype=torch.float64)  # of which the second process needs four
    kind, text = (ValueError, r"params\['W'\] has shape") if rank else (RuntimeError, "rank 1 has failed, ValueError")
    with pytest.raises(kind, match=text):
        optimizer.update(params, {"W": wrong if rank else params["W"].clone()})
    assert same_bits(params["W"].numpy(), expected["W"][rows])


def check_module() -> None:
    """A module under FSDP2 trains as one process does on both halves of each batch."""
    rank = dist.get_rank()

    def module() -> Any:
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))

    ours, theirs = module(), module()
    fully_shard(ours[0])
    fully_shard(ours)
    make = MADE["clip"]
    divided, single = make(), make()
    params, whole = dict(ours.named_parameters()), dict(theirs.named_parameters())
    divided.compile(params)
    for _ in range(4):
        x = torch.randn(6, 5)
        for network, batch in ((ours, x[3 * rank : 3 * rank + 3]), (theirs, x)):
            network.zero_grad()
            (network(batch) ** 2).mean().backward()
        divided.update(params, {k: p.grad for k, p in ours.named_parameters()})
        single.update(whole, {k: p.grad for k, p in theirs.named_parameters()})
    assert [s.engine for s in divided.explain(params, {k: p.grad for k, p in params.items()})] == ["compiled"]
    for k, p in whole.items():
        np.testing.assert_allclose(params[k].full_tensor().detach(), p.detach(), rtol=1e-4, atol=1e-5, err_msg=k)


def main(number: int, port: str, folder: Path) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=number, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name in MADE:
        for engine in (None, *ENGINES.get(name, ())):
            check(mesh, name, engine, folder)
    for name, make in MADE_OF_PARTS.items():
        check_bits(mesh, name, make)
    check_errors(mesh, folder)
    check_beside(mesh)
    check_autograd(mesh)
    check_both_axes()
    check_dropout(mesh)
    check_ranks()
    check_module()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    # All has been checked. In one run of a dozen, C++ threads of torch's end a process that exits as others do with
    # "terminate called without an active exception".
    os._exit(0)
