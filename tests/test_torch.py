"""What only torch has: autograd, modules, inference over tensors that require gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.libraries import Library


@pytest.fixture(autouse=True)
def torch(need: Callable[[str], Library]) -> Any:
    need("torch")
    import torch

    return torch


def test_a_module_trains(torch: Any, method: type[ao.Optimizer]) -> None:
    """`dict(model.named_parameters())` and their `.grad` are params and grads; the module sees its weights move."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    x = torch.randn(64, 3)
    target = x.sum(dim=1, keepdim=True)
    params, optimizer = dict(model.named_parameters()), method(lr=0.05)
    losses = []
    for _ in range(100):
        loss = ((model(x) - target) ** 2).mean()
        model.zero_grad()
        loss.backward()
        optimizer.update(params, {name: p.grad for name, p in params.items()})
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 5
    assert all(p.requires_grad and p.is_leaf and p.grad_fn is None for p in params.values())
    assert optimizer.state is not None
    for slot in optimizer.state.slots.values():
        assert all(s.grad_fn is None and not s.requires_grad for s in slot.values())


def test_a_pending_backward_notices_the_write(torch: Any) -> None:
    """As for torch's own in-place operations: a graph that saved the old values refuses to run."""
    w = torch.ones(3, requires_grad=True)
    loss = (w * w).sum()
    ao.SGD().update({"w": w}, {"w": torch.ones(3)})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_gradients_that_require_gradients(torch: Any) -> None:
    """With `create_graph=True` gradients have a graph of their own, which stays out of parameters and slots."""
    w = torch.tensor([2.0], requires_grad=True)
    (g,) = torch.autograd.grad((w**3).sum(), w, create_graph=True)
    optimizer = ao.Momentum(lr=0.5)
    optimizer.update({"w": w}, {"w": g})
    assert w.tolist() == [-4.0]
    assert w.grad_fn is None
    assert optimizer.state is not None
    assert not optimizer.state.slots["v"]["w"].requires_grad


def test_parameters_without_a_gradient_rest(torch: Any) -> None:
    """A `.grad` of None, as for a frozen layer."""
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    model(torch.ones(1, 2)).sum().backward()
    params = dict(model.named_parameters())
    ao.Adam().update(params, {name: p.grad for name, p in params.items()})
    assert torch.equal(model.bias, before)


def test_strided_and_channels_last_tensors(torch: Any, method: type[ao.Optimizer]) -> None:
    """Any memory format, met element by element, and kept."""
    p = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    g = torch.randn(2, 3, 4, 5)
    plain = p.clone(memory_format=torch.contiguous_format)
    method().update({"p": p}, {"p": g})
    method().update({"p": plain}, {"p": g})
    assert p.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(p.numpy(), plain.numpy())


def test_memory_shared_with_numpy_is_seen(torch: Any) -> None:
    """An array and a tensor over it are one memory, of two libraries: refused, not updated twice."""
    w = np.ones(4)
    with pytest.raises(ValueError, match="share part of their memory"):
        ao.SGD().update({"n": w, "t": torch.from_numpy(w)}, {"n": w, "t": torch.ones(4, dtype=torch.float64)})


def test_inference_tensors_are_rebound(torch: Any) -> None:
    """Outside inference mode nothing writes to them: replaced in a dict, refused in a tuple, before anything moves."""
    a = torch.ones(2)
    with torch.inference_mode():
        b = torch.ones(2)
    grads = {"a": torch.ones(2), "b": torch.ones(2)}
    with pytest.raises(TypeError, match=r"params\[1\] can't be written to"):
        ao.Momentum().update((a, b), tuple(grads.values()))
    assert a.tolist() == [1, 1]
    params = {"a": a, "b": b}
    ao.SGD(lr=1.0).update(params, grads)
    assert params["a"] is a
    assert params["b"] is not b
    assert [p.tolist() for p in params.values()] == [[0, 0], [0, 0]]
    assert b.tolist() == [1, 1]


def test_a_lazy_conjugate_is_not_the_same_array(torch: Any) -> None:
    """It lies in the same memory but has other values: refused beside it, and right as a gradient."""
    w = torch.tensor([1 + 1j])
    with pytest.raises(ValueError, match="share part of their memory"):
        ao.SGD().update({"a": w, "b": w.conj()}, {"a": None, "b": w.clone()})
    ao.SGD(lr=1.0).update({"a": w}, {"a": torch.tensor([1 + 1j]).conj()})
    assert w.tolist() == [2j]


def test_vmap_over_the_pure_form(torch: Any) -> None:
    """Under `torch.func` a tensor has no memory to ask about."""
    optimizer = ao.Adam(lr=0.5)
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    moved = torch.func.vmap(lambda p: optimizer.step(p, p, optimizer.init(p))[0])(w)
    expected, _ = optimizer.step(w, w, optimizer.init(w))
    np.testing.assert_array_equal(moved.numpy(), expected.numpy())


def test_meta_tensors_are_separate(torch: Any) -> None:
    """Nothing of them is stored, so nothing is shared."""
    params = {k: torch.ones(2, device="meta") for k in "ab"}
    ao.SGD().update(params, {k: torch.ones(2, device="meta") for k in "ab"})


def test_an_expanded_tensor_is_refused(torch: Any) -> None:
    """Its elements lie in one place."""
    with pytest.raises(ValueError, match=r"params\['w'\] overlaps itself"):
        ao.SGD().update({"w": torch.ones(1).expand(4)}, {"w": torch.ones(4)})
