"""What only torch has: autograd, modules, inference over tensors that require gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import ENGINES, METHODS, Library, same_bits


@pytest.fixture(autouse=True)
def torch(need: Callable[[str], Library]) -> Any:
    need("torch")
    import torch

    return torch


def test_a_module_trains(torch: Any, method: type[Any]) -> None:
    """`dict(model.named_parameters())` and their `.grad` are params and grads; the module sees its weights move."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    x = torch.randn(64, 3)
    target = x.sum(dim=1, keepdim=True)
    # AdaDelta's lr is a factor to steps that begin small.
    params, optimizer = dict(model.named_parameters()), method(lr=5.0 if method is ao.AdaDelta else 0.05)
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
    """A graph that saved the old values refuses to run, as after torch's own in-place operations."""
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


def test_a_module_in_place_of_its_parameters(torch: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^params is a .*Linear; wanted its parameters: dict\(module.named_parameters\(\)\)$"
    ):
        ao.Adam().update(torch.nn.Linear(2, 1), {})


def test_parameters_without_a_gradient_rest(torch: Any) -> None:
    """A `.grad` of None, as a frozen layer has it, skips the parameter."""
    model = torch.nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    model(torch.ones(1, 2)).sum().backward()
    params = dict(model.named_parameters())
    ao.Adam().update(params, {name: p.grad for name, p in params.items()})
    assert torch.equal(model.bias, before)


def test_strided_and_channels_last_tensors(torch: Any, method: type[ao.Optimizer]) -> None:
    """Tensors of any memory format are matched element by element, and keep their format."""
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
    """Outside inference mode its tensors are not written to: they are replaced in a dict, and refused in a tuple."""
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
    """A lazy conjugate lies in the same memory but has other values: refused beside it, and right as a gradient."""
    w = torch.tensor([1 + 1j])
    with pytest.raises(ValueError, match="share part of their memory"):
        ao.SGD().update({"a": w, "b": w.conj()}, {"a": None, "b": w.clone()})
    ao.SGD(lr=1.0).update({"a": w}, {"a": torch.tensor([1 + 1j]).conj()})
    assert w.tolist() == [2j]


def test_vmap_over_the_pure_form(torch: Any) -> None:
    """`step` works under `torch.func`, where a tensor has no memory to ask about."""
    optimizer = ao.Adam(lr=0.5)
    w = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    moved = torch.func.vmap(lambda p: optimizer.step(p, p, optimizer.init(p))[0])(w)
    expected, _ = optimizer.step(w, w, optimizer.init(w))
    np.testing.assert_array_equal(moved.numpy(), expected.numpy())


def test_meta_tensors_are_separate(torch: Any) -> None:
    """Meta tensors have no memory, so they share none."""
    params = {k: torch.ones(2, device="meta") for k in "ab"}
    ao.SGD().update(params, {k: torch.ones(2, device="meta") for k in "ab"})


def test_an_expanded_tensor_is_refused(torch: Any) -> None:
    """An expanded tensor is refused: its elements lie in one place."""
    with pytest.raises(ValueError, match=r"params\['w'\] overlaps itself"):
        ao.SGD().update({"w": torch.ones(1).expand(4)}, {"w": torch.ones(4)})


DTYPES = ["float32", "float16", "float64", "complex64", "complex128"]
TELLING = {"SGD", "Momentum", "RMSProp", "AMSGrad", "NAdam", "RAdam", "ASGD", "Adan", "Rprop", "Lion"}
"""Of each number of slots, and of each way to depend on the count."""


def _values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    parts = rng.normal(size=(2, *shape)) * 10.0 ** rng.integers(-3, 2, size=(2, *shape))
    return (parts[0] + 1j * parts[1] if dtype.startswith("c") else parts[0]).astype(dtype)


@pytest.mark.parametrize(
    ("name", "dtype"),  # the kernels of engines/test_engines.py, which sees what an engine makes of a method in each
    [
        pytest.param(
            name,
            dtype,
            marks=() if name == "Adam" or (dtype == "float32" and name in TELLING) else pytest.mark.product,
        )
        for name in METHODS
        for dtype in DTYPES
    ],
)
def test_bits_are_those_of_numpy(torch: Any, name: str, dtype: str) -> None:
    """20 steps, float32 included, with the parameters by turns as plain tensors and as nn.Parameter.

    Past the first, which are checked, and the sixth, at which RAdam turns to what it is later.
    """
    rng = np.random.default_rng(1)
    shapes = {"w": (5, 7), "b": (3,), "s": ()}
    arrays = {k: np.asarray(_values(rng, shape, dtype)) for k, shape in shapes.items()}
    tensors = [{k: torch.tensor(a) for k, a in arrays.items()} for _ in range(2)]
    for of in tensors:
        of["w"] = torch.nn.Parameter(of["w"])
    method = METHODS[name]
    one, others = method(engine="portable"), [method(engine=engine) for engine in ("compiled", "blocked")]
    for _ in range(20):
        grads = {k: np.asarray(_values(rng, shape, dtype)) for k, shape in shapes.items()}
        one.update(arrays, grads)
        for two, of in zip(others, tensors, strict=True):
            two.update(of, {k: torch.tensor(g) for k, g in grads.items()})
    for two, of in zip(others, tensors, strict=True):
        expected = two.engine if dtype != "float16" else "blocked"
        assert [share.engine for share in two.explain(of, of)] == [expected]
        for k, tensor in of.items():
            assert same_bits(tensor.detach().numpy(), arrays[k])
            for name, slots in two.state.slots.items():
                assert same_bits(slots[k].numpy(), one.state.slots[name][k])


def test_bfloat16_is_portable(torch: Any) -> None:
    """bfloat16 tensors run on portable: NumPy knows no such dtype."""
    p = torch.ones(3, dtype=torch.bfloat16)
    for engine in ENGINES:
        optimizer = ao.Adam(engine=engine)
        optimizer.update({"p": p}, {"p": p.clone()})
        assert [share.engine for share in optimizer.explain({"p": p}, {"p": p.clone()})] == ["portable"]


@pytest.mark.parametrize("engine", ENGINES)
def test_versions_are_counted(torch: Any, engine: ao.EngineName) -> None:
    """Each update adds one to the version of each parameter, at the first step and later, but to none that rests."""
    params = {"w": torch.nn.Parameter(torch.ones(3)), "v": torch.ones(2), "rests": torch.ones(1)}
    optimizer = ao.Momentum(engine=engine)
    for k in range(1, 6):
        grads = {"w": torch.ones(3), "v": torch.ones(2), "rests": None}
        optimizer.update(params, grads)
        assert [p._version for p in params.values()] == [k, k, 0]
        with pytest.raises(ValueError, match="shape"):
            optimizer.update(params, {**grads, "v": torch.ones(3)})
        assert [p._version for p in params.values()] == [k, k, 0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("before", [0, 4])
def test_a_pending_backward_notices_every_engine(torch: Any, engine: ao.EngineName, before: int) -> None:
    """The error is torch's own, at the first step and later."""
    params = {"w": torch.nn.Parameter(torch.ones(3))}
    optimizer = ao.SGD(engine=engine)
    for _ in range(before):
        optimizer.update(params, {"w": torch.ones(3)})
    loss = (params["w"] * params["w"]).sum()
    optimizer.update(params, {"w": torch.ones(3)})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_with_a_graph_at_later_steps(torch: Any, engine: ao.EngineName) -> None:
    """Gradients with a graph leave none in slots, parameters, or what the optimizer keeps."""
    params = {"w": torch.nn.Parameter(torch.full((3,), 2.0))}
    optimizer = ao.Adam(lr=0.1, engine=engine)
    for _ in range(4):
        (g,) = torch.autograd.grad((params["w"] ** 3).sum(), params["w"], create_graph=True)
        assert g.requires_grad
        optimizer.update(params, {"w": g})
    assert params["w"].is_leaf
    assert params["w"].requires_grad
    for slots in optimizer.state.slots.values():  # type: ignore[union-attr]
        assert not slots["w"].requires_grad
        assert slots["w"].grad_fn is None


def _expanded(torch: Any, w: Any) -> Any:
    (g,) = torch.autograd.grad(w.sum(), w)
    assert g.stride() == (0, 0)
    return g


GRADIENTS: dict[str, Callable[[Any, Any], Any]] = {
    "expanded": _expanded,
    "transposed": lambda torch, w: torch.arange(16.0).reshape(4, 4).t(),
    "strided": lambda torch, w: torch.arange(32.0).reshape(4, 8)[:, ::2],
    "a view": lambda torch, w: torch.arange(20.0)[3:19].view(4, 4),
    "a negation": lambda torch, w: torch.complex(torch.zeros(4, 4), torch.arange(16.0).reshape(4, 4)).conj().imag,
    "float64": lambda torch, w: torch.arange(16.0, dtype=torch.float64).reshape(4, 4),
    "float16": lambda torch, w: torch.arange(16.0, dtype=torch.float16).reshape(4, 4),
    "bfloat16": lambda torch, w: torch.arange(16.0, dtype=torch.bfloat16).reshape(4, 4),
    "misaligned": lambda torch, w: (
        torch.frombuffer(bytearray(bytes(range(65))), dtype=torch.float32, offset=1).reshape(4, 4).abs().clamp(0, 1)
    ),
    "a Parameter": lambda torch, w: torch.nn.Parameter(torch.ones(4, 4)),
    "itself": lambda torch, w: w,
    "a shifted view of itself": lambda torch, w: torch.as_strided(w.detach(), (4, 4), (1, 1)),
    "sparse": lambda torch, w: torch.eye(4).to_sparse(),
    "of another shape": lambda torch, w: torch.ones(16),
    "an integer": lambda torch, w: torch.ones(4, 4, dtype=torch.int32),
    "complex": lambda torch, w: torch.ones(4, 4, dtype=torch.complex64),
    "meta": lambda torch, w: torch.ones(4, 4, device="meta"),
    "NumPy's": lambda torch, w: np.ones((4, 4), np.float32),
    "a number": lambda torch, w: 0.5,
    "None": lambda torch, w: None,
}


def _twins(torch: Any, play: Callable[[Any, Callable[[Any, Any], None]], None], engine: ao.EngineName) -> None:
    """Run a play on the engine and on portable, which must have the same bits and errors."""
    seen: list[list[Any]] = []
    for name in ("portable", engine):
        optimizer = ao.Momentum(lr=0.1, engine=name)
        found: list[Any] = []

        def step(params: Any, grads: Any, optimizer: Any = optimizer, found: list[Any] = found) -> None:
            error = None
            try:
                optimizer.update(params, grads)
            except (TypeError, ValueError, RuntimeError) as caught:
                error = type(caught), str(caught)
            state = optimizer.state
            arrays = [*params.values(), *(state.slots["v"].values() if state else ())]
            found.append((error, [a.detach().resolve_conj().resolve_neg().clone().numpy() for a in arrays]))

        play(torch, step)
        seen.append(found)
    for k, ((error, arrays), (other_error, others)) in enumerate(zip(*seen, strict=True)):
        assert other_error == error, k
        assert all(same_bits(a, b) for a, b in zip(arrays, others, strict=True)), k


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_another_gradient_after_good_ones(torch: Any, engine: ao.EngineName, name: str) -> None:
    """After good steps another gradient is taken or refused as portable does it, with its words."""

    def play(torch: Any, step: Callable[[Any, Any], None]) -> None:
        params = {"w": torch.nn.Parameter(torch.arange(16.0).reshape(4, 4)), "v": torch.ones(3)}
        for _ in range(2):
            for _ in range(3):
                step(params, {"w": torch.ones(4, 4), "v": torch.ones(3)})
            for _ in range(2):
                step(params, {"w": GRADIENTS[name](torch, params["w"]), "v": torch.ones(3)})
        step(params, {"w": torch.ones(4, 4), "v": torch.ones(3)})

    _twins(torch, play, engine)


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "data": lambda torch, w: setattr(w, "data", torch.full((4, 4), 7.0)),
    "data of another shape": lambda torch, w: setattr(w, "data", torch.full((2, 4), 7.0)),
    "data in another order": lambda torch, w: setattr(w, "data", torch.arange(16.0).reshape(4, 4).t()),
    "data of another dtype": lambda torch, w: setattr(w, "data", w.data.view(torch.int32)),
    "data of another dtype and place": lambda torch, w: setattr(w, "data", w.data.double()),
    "set": lambda torch, w: w.set_(torch.full((4, 4), 3.0)),
    "set to a view": lambda torch, w: w.set_(torch.arange(32.0)[16:].view(4, 4)),
    "smaller": lambda torch, w: w.resize_(2, 2),
    "transposed": lambda torch, w: w.t_(),
    "reshaped": lambda torch, w: w.as_strided_((8, 2), (2, 1)),
    "overlapping itself": lambda torch, w: w.as_strided_((4, 4), (1, 1)),
    "requires a gradient": lambda torch, w: w.requires_grad_(True),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_a_tensor_that_changed_under_the_same_object(torch: Any, engine: ao.EngineName, name: str) -> None:
    """After an assignment to `.data` the new memory, shape, strides and dtype count."""

    def play(torch: Any, step: Callable[[Any, Any], None]) -> None:
        w = torch.arange(16.0).reshape(4, 4).clone()
        params = {"w": w, "v": torch.ones(3)}
        for _ in range(3):
            step(params, {"w": torch.ones(4, 4), "v": torch.ones(3)})
        with torch.no_grad():
            CHANGES[name](torch, w)
        for _ in range(2):
            step(params, {"w": torch.ones(4, 4), "v": torch.ones(3)})
            step(params, {"w": torch.ones_like(w), "v": torch.ones(3)})

    _twins(torch, play, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tensor_that_grew_and_shrank(torch: Any, engine: ao.EngineName) -> None:
    """A resize is refused by torch once NumPy has seen the tensor; else the step goes to the new memory."""
    w = torch.full((4, 4), 9.0)
    optimizer = ao.SGD(lr=1.0, engine=engine)
    for _ in range(3):
        optimizer.update({"w": w}, {"w": torch.ones(4, 4)})
    if engine == "portable":
        w.resize_(4000, 4).resize_(4, 4)
    else:
        with pytest.raises(RuntimeError, match="not resizable"):
            w.resize_(4000, 4)
        w.set_(torch.full((4, 4), 6.0))
    optimizer.update({"w": w}, {"w": torch.ones(4, 4)})
    assert w.tolist() == [[5.0] * 4] * 4


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dtype_of_the_same_width_under_the_same_object(torch: Any, engine: ao.EngineName) -> None:
    """Neither address, shape nor strides tell float64 from complex64: the dtype is compared, too."""
    w = torch.arange(4.0, dtype=torch.float64)
    optimizer = ao.SGD(lr=1.0, engine=engine)
    for _ in range(3):
        optimizer.update({"w": w}, {"w": torch.ones(4, dtype=torch.float64)})
    w.data = w.data.view(torch.complex64)
    before = w.clone()
    for dtype in (torch.complex64, torch.float64):
        with pytest.raises((TypeError, ValueError), match="w"):
            optimizer.update({"w": w}, {"w": torch.ones(4, dtype=dtype)})
    assert torch.equal(w, before)


@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_views_of_one_flat_buffer(torch: Any, engine: ao.EngineName) -> None:
    """Parameters may lie in one buffer, as frameworks lay them, and gradients in another or, shifted, in the same."""

    def play(torch: Any, step: Callable[[Any, Any], None]) -> None:
        p, g = torch.arange(30.0), torch.arange(30.0) / 7
        params = {"a": p[:12].view(3, 4), "b": p[12:20], "c": p[20:30].view(5, 2)}
        for _ in range(3):
            g += 0.5
            step(params, {"a": g[:12].view(3, 4), "b": g[12:20], "c": g[20:30].view(5, 2)})
        for _ in range(2):
            step(params, {"a": p[5:17].view(3, 4), "b": p[14:22], "c": p[:10].view(5, 2)})

    _twins(torch, play, engine)


@pytest.mark.parametrize("engine", ["compiled", "blocked"])
def test_memory_formats(torch: Any, engine: ao.EngineName) -> None:
    """Channels last and transposed parameters, with gradients in the same order and in another."""

    def play(torch: Any, step: Callable[[Any, Any], None]) -> None:
        last = torch.channels_last
        params = {
            "c": torch.arange(120.0).reshape(2, 3, 4, 5).to(memory_format=last),
            "t": torch.arange(6.0).reshape(2, 3).t(),
        }
        for k in range(6):
            g = torch.arange(120.0).reshape(2, 3, 4, 5) + k
            step(params, {"c": g if k % 2 else g.to(memory_format=last), "t": torch.arange(6.0).reshape(3, 2)})
        assert params["c"].is_contiguous(memory_format=last)

    _twins(torch, play, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_inference_mode(torch: Any, engine: ao.EngineName) -> None:
    """In inference mode tensors are written in place; those that were made there are replaced outside."""
    outer = torch.ones(3)
    with torch.inference_mode():
        inner = torch.ones(3)
        params, optimizer = {"outer": outer, "inner": inner}, ao.SGD(lr=1.0, engine=engine)
        for _ in range(3):
            optimizer.update(params, {"outer": torch.ones(3), "inner": torch.ones(3)})
        assert params["inner"] is inner
    optimizer.update(params, {"outer": torch.ones(3), "inner": torch.ones(3)})
    assert params["outer"] is outer
    assert params["inner"] is not inner
    assert [p.tolist() for p in (outer, inner, params["inner"])] == [[-3.0] * 3, [-2.0] * 3, [-3.0] * 3]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch's own, at the first jvp
@pytest.mark.parametrize("transform", ["grad", "vmap", "functionalize", "jvp"])
def test_steps_inside_a_transformed_function(torch: Any, engine: ao.EngineName, transform: str) -> None:
    """Where tensors stand for others, `update` goes through torch's operations: p = 2x - 3*0.5*x = x/2."""
    func = torch.func

    def trained(x: Any) -> Any:
        params, optimizer = {"w": x * 2}, ao.SGD(lr=0.5, engine=engine)
        for _ in range(3):
            optimizer.update(params, {"w": x * 1.0})
        return (params["w"] ** 2).sum()

    x = torch.tensor([1.0, 2.0, 4.0])
    if transform == "grad":
        # The write is one that autograd does not see, as in torch's own optimizers.
        assert func.grad(lambda x: trained(x) * 0 + x.sum())(x).tolist() == [1.0] * 3
    elif transform == "vmap":
        assert func.vmap(trained)(torch.stack([x, 2 * x])).tolist() == [5.25, 21.0]
    elif transform == "functionalize":
        assert func.functionalize(trained)(x).item() == 5.25
    else:
        assert func.jvp(trained, (x,), (x,))[0].item() == 5.25


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_gradients_of_a_transformed_function(torch: Any, engine: ao.EngineName, transform: str) -> None:
    """Traced gradients would be frozen into parameters outside: torch refuses, after good steps too; nothing moves."""
    params, optimizer = {"w": torch.ones(3)}, ao.SGD(lr=1.0, engine=engine)
    for _ in range(3):
        optimizer.update(params, {"w": torch.ones(3)})

    def loss(x: Any) -> Any:
        optimizer.update(params, {"w": x * 2})
        return (x**2).sum()

    with pytest.raises(RuntimeError, match=r"(?i)in-?place"):
        getattr(torch.func, transform)(loss)(torch.ones(3) if transform == "grad" else torch.ones(2, 3))
    assert params["w"].tolist() == [-2.0] * 3
    optimizer.update(params, {"w": torch.ones(3)})
    assert params["w"].tolist() == [-3.0] * 3
    assert optimizer.state is not None
    assert optimizer.state.step == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_subclasses_are_portable(torch: Any, engine: ao.EngineName) -> None:
    """Subclasses of tensors are left to portable: what their operations do is theirs to say."""

    class Own(torch.Tensor):  # type: ignore[misc]
        pass

    w = torch.ones(3).as_subclass(Own)
    optimizer = ao.Momentum(lr=0.5, engine=engine)
    for _ in range(3):
        optimizer.update({"w": w}, {"w": torch.ones(3)})
    (share,) = optimizer.explain({"w": w}, {"w": torch.ones(3)})
    assert share.engine == "portable"
    v = torch.ones(3)
    ao.Momentum(lr=0.5, engine="portable").update({"w": v}, {"w": torch.ones(3)})
    optimizer = ao.Momentum(lr=0.5, engine=engine)
    u = torch.ones(3)
    optimizer.update({"w": u}, {"w": torch.ones(3).as_subclass(Own)})
    assert u.tolist() == v.tolist()


@pytest.mark.parametrize("engine", ENGINES)
def test_lazy_conjugates_and_negations_as_parameters(torch: Any, engine: ao.EngineName) -> None:
    """Lazy conjugates and negations are replaced, and the memory below them is not written to."""
    base = torch.tensor([1 + 2j, 3 + 4j])
    params = {"c": base.conj(), "n": base.clone().conj().imag}
    optimizer = ao.SGD(lr=1.0, engine=engine)
    for _ in range(2):
        optimizer.update(params, {"c": torch.tensor([1 + 1j, 1 + 1j]), "n": torch.ones(2)})
    assert params["c"].tolist() == [-1 - 4j, 1 - 6j]
    assert params["n"].tolist() == [-4.0, -6.0]
    assert base.tolist() == [1 + 2j, 3 + 4j]


@pytest.mark.parametrize("engine", ENGINES)
def test_sparse_gradients_are_refused(torch: Any, engine: ao.EngineName) -> None:
    """Sparse gradients, as of an embedding, are refused, after good steps too, and nothing moves."""
    model = torch.nn.Embedding(4, 3, sparse=True)
    params, optimizer = dict(model.named_parameters()), ao.Adam(engine=engine)
    for _ in range(3):
        optimizer.update(params, {"weight": torch.ones(4, 3)})
    model(torch.tensor([1])).sum().backward()
    before = model.weight.detach().clone()
    with pytest.raises(TypeError, match=r"grads\['weight'\] has layout torch.sparse_coo"):
        optimizer.update(params, {"weight": model.weight.grad})
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("engine", ENGINES)
def test_modules_train_alike_on_every_engine(torch: Any, engine: ao.EngineName) -> None:
    """`p.grad` set to None in between, a layer frozen for a while, gradients summed: with float64's bits."""

    def run(name: ao.EngineName) -> list[Any]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
        params, optimizer = dict(model.named_parameters()), ao.Adam(lr=0.05, engine=name)
        x = torch.randn(16, 3, dtype=torch.float64)
        for k in range(12):
            model[0].requires_grad_(k not in {4, 5})
            if k != 8:
                model.zero_grad()
            (model(x) ** 2).mean().backward()
            optimizer.update(params, {key: p.grad for key, p in params.items()})
        return [p.detach().numpy() for p in params.values()]

    assert all(map(same_bits, run("portable"), run(engine)))


def test_gradients_without_memory(torch: Any) -> None:
    """Under `functionalize` a tensor has elements and no memory, and address 0 is never read."""
    params, optimizer = {"w": torch.zeros(1000)}, ao.SGD(engine="compiled")
    for _ in range(3):
        optimizer.update(params, {"w": torch.ones(1000)})

    def step(g: Any) -> Any:
        optimizer.update(params, {"w": g})
        return g * 1

    with contextlib.suppress(RuntimeError, TypeError, ValueError):
        torch.func.functionalize(step)(torch.ones(1000))
    before = params["w"].clone()
    optimizer.update(params, {"w": torch.ones(1000)})
    assert torch.equal(params["w"], before - 0.01 * torch.ones(1000))


DRAWS: dict[str, Callable[[Any], Any]] = {
    "dropout": lambda x: ao.dropout(x, 0.5, 1, 2),
    "alpha_dropout": lambda x: ao.alpha_dropout(x, 0.5, 1, 2),
    "gaussian_dropout": lambda x: ao.gaussian_dropout(x, 0.5, 1, 2),
    "zoneout": lambda x: ao.zoneout(x, 2 * x, 0.5, 1, 2),
    "noise_shape": lambda x: ao.dropout(x, 0.5, 1, 2, noise_shape=(1,)),
    "uniform": lambda x: x + ao.random.uniform(x.shape, 1, 2, like=x),
}
FIRST = {"dropout", "uniform"}
"""A layer, and a number: the others draw as one of these does, and compiling takes seconds."""


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_lie_where_the_input_does(torch: Any, draw: str) -> None:
    """The result lies where torch puts new tensors, and the input can be resized afterwards: no NumPy view is left."""
    x = torch.ones(6, requires_grad=True)
    expected = DRAWS[draw](x)
    with torch.device("meta"):
        found = DRAWS[draw](x)
    assert found.device == x.device
    assert torch.equal(found, expected)
    like = torch.ones(6)
    for number in (ao.random.bits, ao.random.uniform, ao.random.normal):
        number((6,), 1, 2, like=like)
    like.resize_(20)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # Dynamo's, of built-ins that it does not follow
@pytest.mark.product  # Dynamo and its compiler take half a minute
@pytest.mark.parametrize(
    ("draw", "follow"), [*((draw, False) for draw in DRAWS), *((draw, True) for draw in sorted(FIRST))]
)
def test_draws_under_torch_compile(torch: Any, draw: str, follow: bool) -> None:
    """Words are drawn outside of the graph, with the bits that they have everywhere."""
    x = torch.ones(6, requires_grad=follow)
    torch.compiler.reset()
    assert torch.equal(torch.compile(DRAWS[draw], backend="aot_eager")(x), DRAWS[draw](x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of torch.jit.trace itself
@pytest.mark.filterwarnings("ignore:Converting a tensor")  # of shapes, which are the trace's own
@pytest.mark.parametrize("draw", DRAWS)
def test_draws_of_traced_functions(torch: Any, draw: str) -> None:
    """A traced function draws for another x, too: NumPy, whose work is in no trace, is not used there."""
    from torch.fx.experimental.proxy_tensor import make_fx

    x, other = torch.ones(6), 3 * torch.ones(6)
    expected = DRAWS[draw](other)
    assert torch.equal(torch.jit.trace(DRAWS[draw], x, check_trace=False)(other), expected)
    assert torch.equal(make_fx(DRAWS[draw])(x)(other), expected)
