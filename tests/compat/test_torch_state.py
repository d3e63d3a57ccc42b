"""Training carried from torch.optim to anyoptim and back, in the middle."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.support.compat_torch import OPTIONS, Beside, drawn, make, random, shapes
from tests.support.libraries import Library
from tests.support.options import draws

HALF = 50
DRAWS = 3


pytestmark = pytest.mark.usefixtures("torch")


def _gradients(of: Any, rng: Any) -> list[Any]:
    """The gradients of all steps; one parameter's are None until shortly before the half, and sometimes later."""
    found = []
    for t in range(2 * HALF):
        g = random(rng, of, scale=10.0 ** rng.integers(-1, 2))
        if t < HALF - 3 or t % 7 == 3:
            g["p1"] = None
        found.append(g)
    return found


def _beginning(name: str, draw: int, torch: Any) -> tuple[Any, dict[str, Any], list[Any], Beside]:
    """Drawn options, first parameters and the gradients of all steps, and torch before the first."""
    rng = np.random.default_rng([draw, *name.encode()])
    options, of = drawn(name, rng), shapes(name, rng)
    start, grads = random(rng, of), _gradients(of, rng)
    return options, start, grads, Beside(torch, name, options, start)


def _way(start: Any, values: Sequence[Any]) -> Any:
    """How far each element went, and what it was at most."""
    way = {key: np.abs(a) for key, a in start.items()}
    for before, after in zip([start, *values], values, strict=False):
        way = {key: np.maximum(w + np.abs(after[key] - before[key]), np.abs(after[key])) for key, w in way.items()}
    return way


def _run(theirs: Beside, grads: Sequence[Any]) -> list[Any]:
    found = []
    for g in grads:
        theirs.update(g)
        found.append(theirs.params)
    return found


def _close(found: Any, expected: Any, way: Any) -> None:
    for key, a in expected.items():
        assert np.all(np.isfinite(a))
        np.testing.assert_array_less(np.abs(found[key] - a), 1e-12 * way[key] + 1e-300, err_msg=key)


@pytest.mark.parametrize(("name", "draw"), draws(dict.fromkeys(OPTIONS, DRAWS), 1 / 3))
def test_from_torch_and_on(name: str, draw: int, torch: Any) -> None:
    """50 steps of torch, the state carried over, 50 steps here: as 100 steps of torch, to 1e-12 of the way.

    The bound is that of compat/test_torch.py. One parameter has its first gradient just before the half.
    """
    _, start, grads, theirs = _beginning(name, draw, torch)
    values = _run(theirs, grads[:HALF])
    p = {key: a.copy() for key, a in theirs.params.items()}
    ours = ao.compat.torch.from_torch(theirs.optimizer.state_dict(), list(start), p)
    values += _run(theirs, grads[HALF:])
    for g in grads[HALF:]:
        ours.update(p, g)
    _close(p, theirs.params, _way(start, values))


@pytest.mark.parametrize(("name", "draw"), draws(dict.fromkeys(OPTIONS, DRAWS), 1 / 3))
def test_to_torch_and_on(name: str, draw: int, torch: Any) -> None:
    """50 steps here, the state carried over, 50 steps of torch: as 100 steps of torch, to 1e-12 of the way."""
    options, start, grads, theirs = _beginning(name, draw, torch)
    values = _run(theirs, grads)
    p, ours = {key: a.copy() for key, a in start.items()}, make(name, options)
    for g in grads[:HALF]:
        ours.update(p, g)
    after = Beside(torch, name, {}, p)  # its options come with the state
    after.optimizer.load_state_dict(ao.compat.torch.to_torch(ours, list(start)))
    _run(after, grads[HALF:])
    _close(after.params, theirs.params, _way(start, values))


@pytest.mark.parametrize(("name", "draw"), draws(dict.fromkeys(OPTIONS, DRAWS), 1 / 3))
def test_there_and_back(name: str, draw: int, torch: Any) -> None:
    """What came from torch goes back as it was: options, names of states, their values and dtypes."""
    _, start, grads, theirs = _beginning(name, draw, torch)
    _run(theirs, grads[:7])
    given = theirs.optimizer.state_dict()
    before = copy.deepcopy(given)
    ours = ao.compat.torch.from_torch(given, list(start), theirs.params)
    back = ao.compat.torch.to_torch(ours, list(start))
    _same(given, before)  # which was only read
    # Torch's Adagrad has a state before the first step.
    assert set(back["state"]) == {i for i, own in given["state"].items() if name != "Adagrad" or own["step"]}
    for i in back["state"]:
        assert set(back["state"][i]) == set(given["state"][i])
        for key, value in given["state"][i].items():
            found = back["state"][i][key]
            assert found.dtype == value.dtype
            expected = torch.sign(value) if key == "prev" else value
            # A mean square is a variance here, beside a mean.
            rounded = key in {"mu_product", "eta"} or (key == "square_avg" and "grad_avg" in given["state"][i])
            torch.testing.assert_close(found, expected, rtol=1e-12 if rounded else 0, atol=0)
            assert found.data_ptr() != value.data_ptr()
    (group,), (was,) = back["param_groups"], given["param_groups"]
    assert group.keys() == was.keys()
    for key, value in was.items():
        # Of these there are two names for one thing: a dampening without momentum, the decay of none.
        if key not in {"foreach", "dampening", "nesterov", "decoupled_weight_decay", "adjust_lr_fn"}:
            assert group[key] == value, key


def _same(a: Any, b: Any) -> None:
    assert repr(a) == repr(b)


@pytest.mark.parametrize("name", OPTIONS)
def test_into_a_chain_and_out_of_it(name: str, torch: Any) -> None:
    """A chain that has other stages besides takes the state, and gives it back, by `strict=False`."""
    options, start, grads, theirs = _beginning(name, 0, torch)
    values = _run(theirs, grads[:HALF])
    p, names = {key: a.copy() for key, a in theirs.params.items()}, list(start)
    ours = ao.compat.torch.from_torch(theirs.optimizer.state_dict(), names, p)
    values += _run(theirs, grads[HALF:])
    way = _way(start, values)
    chain = ao.chain(ao.ClipGlobalNorm(np.inf), make(name, options), ao.EMA(0.9))
    assert len(chain.load_state_dict(ours.state_dict(), p, strict=False)) == 1
    for g in grads[HALF : HALF + 20]:
        chain.update(p, g)
    bare = make(name, options)
    assert len(bare.load_state_dict(chain.state_dict(), p, strict=False)) == 1
    after = Beside(torch, name, options, p)
    after.optimizer.load_state_dict(ao.compat.torch.to_torch(bare, names))
    _run(after, grads[HALF + 20 :])
    _close(after.params, theirs.params, way)


GROUPS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"momentum": 0.9, "weight_decay": 0.1}, {"lr": 0.03, "momentum": 0.0, "dampening": 0.3}],
    "Adam": [{"weight_decay": 0.1, "betas": (0.8, 0.95)}, {"lr": 0.03, "weight_decay": 0.0}],
    "AdamW": [{"weight_decay": 0.1, "eps": 1e-3}, {"lr": 0.03, "weight_decay": 0.0}],
    "NAdam": [{"momentum_decay": 0.1}, {"lr": 0.03, "betas": (0.7, 0.95)}],
    "RMSprop": [{"momentum": 0.5, "alpha": 0.9}, {"lr": 0.003, "weight_decay": 0.2}],
    "Rprop": [{"etas": (0.4, 1.3)}, {"step_sizes": (1e-3, 0.1)}],
    "ASGD": [{"t0": 20}, {"lr": 0.03, "lambd": 0.1}],
    "Adafactor": [{"d": 2.0}, {"lr": 0.03, "beta2_decay": -0.5, "weight_decay": 0.1}],
    "Muon": [{"nesterov": False, "ns_steps": 3}, {"lr": 0.03, "adjust_lr_fn": "match_rms_adamw"}],
}


@pytest.mark.parametrize("named", [True, False], ids=["from torch", "from here"])
@pytest.mark.parametrize("name", GROUPS)
def test_groups(name: str, named: bool, torch: Any) -> None:
    """Several groups become groups, with what is not 0 in one of them; and are told apart again."""
    rng = np.random.default_rng([*name.encode()])
    of = shapes(name, rng)
    start, grads = random(rng, of), _gradients(of, rng)
    keys = list(of)
    groups = [(keys[1:], GROUPS[name][0]), (keys[:1], GROUPS[name][1])]
    names = [*keys[1:], keys[0]]
    theirs = Beside(torch, name, {"lr": 0.01}, start, groups)
    values = _run(theirs, grads[:HALF])
    p = {key: a.copy() for key, a in theirs.params.items()}
    ours: Any = ao.compat.torch.from_torch(theirs.optimizer.state_dict(), names, p)
    kept = {i: set(own) for i, own in theirs.optimizer.state_dict()["state"].items() if own}
    assert len(ours.groups) == 2
    assert set(ours.groups) == {keys[0], *(s for s in ours.groups if callable(s))}
    values += _run(theirs, grads[HALF:])
    way = _way(start, values)
    if named:
        for g in grads[HALF:]:
            ours.update(p, g)
        _close(p, theirs.params, way)
    else:
        after = Beside(torch, name, {}, p, [(own, {}) for own, _ in groups])
        back = ao.compat.torch.to_torch(ours, names)
        assert {i: set(own) for i, own in back["state"].items()} == kept
        after.optimizer.load_state_dict(back)
        for group, (_, options) in zip(after.optimizer.param_groups, groups, strict=True):
            assert {**group, **options, "dampening": 0} == {**group, "dampening": 0}
        _run(after, grads[HALF:])
        _close(after.params, theirs.params, way)


def test_rates_of_groups_are_live(torch: Any) -> None:
    """Each group has its own rate, under a selector that names its parameters; the optimizer has none."""
    start = {"a": np.ones(2), "b": np.ones(3), "c": np.ones(())}
    theirs = Beside(torch, "AdamW", {}, start, [(["a"], {}), (["b", "c"], {"weight_decay": 0.5})])
    ours: Any = ao.compat.torch.from_torch(theirs.optimizer.state_dict(), ["a", "b", "c"], start)
    a, b = "{'lr': 0.001, 'weight_decay': 0.01}", "{'lr': 0.001, 'weight_decay': 0.5}"
    assert repr(ours.groups) == f"groups({{'a': {a}, Named('b', 'c'): {b}}})"
    with pytest.raises(AttributeError, match="the lr of each group is its own"):
        ours.lr = 0.5
    ours.groups["a"]["lr"] = 0.25
    group, other = ao.compat.torch.to_torch(ours, [["a"], ["b", "c"]])["param_groups"]
    assert (group["lr"], other["lr"]) == (0.25, 0.001)
    assert (group["weight_decay"], other["weight_decay"]) == (0.01, 0.5)
    assert (group["params"], other["params"]) == ([0], [1, 2])


def test_names_that_torch_was_given(torch: Any) -> None:
    """`named_parameters()` gives param_names, which may stand for names."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    theirs = torch.optim.Adam(model.named_parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(3)).sum().backward()
        theirs.step()
    params = {key: p.detach().clone() for key, p in model.named_parameters()}
    ours = ao.compat.torch.from_torch(theirs.state_dict(), None, params)
    nested: Any = {"0": {}, "1": {}}
    for key, p in params.items():
        layer, of = key.split(".")
        nested[layer][of] = p.numpy().copy()
    other = ao.compat.torch.from_torch(theirs.state_dict(), None, nested)
    grads = {key: torch.ones_like(p) for key, p in params.items()}
    ours.update(params, grads)
    other.update(nested, {k: {key: np.ones(a.shape) for key, a in of.items()} for k, of in nested.items()})
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    theirs.step()
    for key, p in model.named_parameters():
        torch.testing.assert_close(params[key], p.detach(), rtol=1e-12, atol=0)
        layer, of = key.split(".")
        np.testing.assert_allclose(nested[layer][of], p.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_libraries(library: str, dtype: str, need: Callable[[str], Library], torch: Any) -> None:
    """To parameters of other libraries and dtypes, whose slots have at least float32; and back."""
    lib = need(library)
    kind = getattr(torch, dtype)
    q = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).to(kind))
    theirs = torch.optim.Adam([q], lr=0.1, amsgrad=True)
    for _ in range(3):
        q.grad = torch.ones_like(q)
        theirs.step()
    params = {"w": lib.array(q.detach().float().numpy(), dtype)}
    ours = ao.compat.torch.from_torch(theirs.state_dict(), ["w"], params)
    state: Any = ours.state
    assert state.t == {"w": 3}
    for slot, name in (("m", "exp_avg"), ("v", "exp_avg_sq"), ("u", "max_exp_avg_sq")):
        found = lib.tonumpy(state.slots[slot]["w"])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, theirs.state[q][name].float().numpy())
    back = torch.optim.Adam([q], lr=0.7)
    back.load_state_dict(ao.compat.torch.to_torch(ours, ["w"]))
    for name, value in theirs.state[q].items():
        torch.testing.assert_close(back.state[q][name], value, rtol=0, atol=0, check_dtype=name != "step")
    assert back.param_groups[0]["lr"] == 0.1
    assert back.param_groups[0]["amsgrad"]


def test_schedules_go_on(torch: Any) -> None:
    """A schedule goes on from the count of steps; where torch has none, from what it is told."""
    for name, given, expected in (("Adam", None, 5), ("SGD", None, 1), ("SGD", 5, 5)):
        p = torch.nn.Parameter(torch.ones(2))
        theirs = getattr(torch.optim, name)([p], **({"momentum": 0.9} if name == "SGD" else {}))
        for _ in range(5):
            p.grad = torch.ones(2)
            theirs.step()
        params = {"w": np.ones(2)}
        ours: Any = ao.compat.torch.from_torch(theirs.state_dict(), ["w"], params, step=given)
        assert ours.state.step == ours.state.t["w"] == expected
        asked: list[int] = []
        ours.lr = lambda t, asked=asked: asked.append(t) or 0.5
        ours.update(params, {"w": np.ones(2)})
        assert set(asked) == {expected + 1}
        assert ao.compat.torch.to_torch(ours, ["w"])["param_groups"][0]["lr"] == 0.5
        assert set(asked) == {expected + 1, expected + 2}


@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "ASGD"])
def test_a_schedule_goes_on_in_torch(name: str, torch: Any) -> None:
    """A schedule goes out as its value at the next step; for ASGD, torch's state has the rate of this one, too."""
    rng = np.random.default_rng([3, *name.encode()])
    options, start = drawn(name, rng), {"w": rng.normal(size=(2, 3))}
    schedule = ao.compat.torch.lr_scheduler.LinearLR(0.1, 0.1, 1.0, 40)
    grads = [{"w": rng.normal(size=(2, 3))} for _ in range(30)]
    theirs, p, ours = Beside(torch, name, options, start), {"w": start["w"].copy()}, None
    values = []
    for t, g in enumerate(grads, 1):
        theirs.optimizer.param_groups[0]["lr"] = schedule(t)
        if t == 1 and name == "ASGD":  # which would take what it was made with for the first
            theirs = Beside(torch, name, {**options, "lr": schedule(1)}, start)
        theirs.update(g)
        values.append(theirs.params)
    ours = make(name, {**options, "lr": schedule})
    for g in grads[:15]:
        ours.update(p, g)
    after = Beside(torch, name, {}, p)
    after.optimizer.load_state_dict(ao.compat.torch.to_torch(ours, ["w"]))
    assert after.optimizer.param_groups[0]["lr"] == schedule(16)
    for t, g in enumerate(grads[15:], 16):
        after.optimizer.param_groups[0]["lr"] = schedule(t)
        after.update(g)
    _close(after.params, theirs.params, _way(start, values))


def test_what_was_rounded(torch: Any) -> None:
    """What torch keeps in float32, and rounds to the parameters' dtype where it is loaded, is what its options say."""
    torch.set_default_dtype(torch.float32)
    for name, options in (("NAdam", {"betas": (0.999, 0.9999), "momentum_decay": 1.0}), ("ASGD", {"t0": 100})):
        for dtype in (torch.float32, torch.bfloat16):
            p = torch.nn.Parameter(torch.ones(2, dtype=dtype))
            theirs = getattr(torch.optim, name)([p], **options)
            for _ in range(400):
                p.grad = torch.ones_like(p)
                theirs.step()
            again = getattr(torch.optim, name)([p])
            again.load_state_dict(theirs.state_dict())
            for optimizer in (theirs, again):
                ours: Any = ao.compat.torch.from_torch(optimizer.state_dict(), ["w"], {"w": np.ones(2, np.float32)})
                assert ours.state.step == 400


def test_the_same_by_other_means(torch: Any) -> None:
    """What torch does is told by what an optimizer does, not by who made it."""
    params = {"w": np.ones(2)}
    for optimizer, name, options in (
        (
            ao.chain(ao.WeightDecay(0.1), ao.HeavyBall(0.2, 0.9)),
            "SGD",
            {"lr": 0.2, "momentum": 0.9, "weight_decay": 0.1},
        ),
        (ao.SGD(0.5), "SGD", {"lr": 0.5, "momentum": 0}),
        (ao.RMSProp(0.1, 0.9, 1e-3), "RMSprop", {"lr": 0.1, "alpha": 0.9, "eps": 1e-3, "centered": False}),
        (ao.AMSGrad(0.1, eps=0.0, weight_decay=0.5), "Adam", {"amsgrad": True, "decoupled_weight_decay": True}),
        (ao.chain(ao.Maximize(), ao.Adamax(eps=0.0, eps_max=1e-8)), "Adamax", {"maximize": True, "eps": 1e-8}),
    ):
        optimizer.update(params, {"w": np.ones(2)})
        found = ao.compat.torch.to_torch(optimizer, ["w"])
        theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(2))])
        assert set(found["param_groups"][0]) == set(theirs.state_dict()["param_groups"][0])
        assert {**found["param_groups"][0], **options} == found["param_groups"][0]
        theirs.load_state_dict(found)
        assert bool(found["state"]) == (type(optimizer) is not ao.SGD)


def _given(torch: Any, name: str = "Adam", **options: Any) -> Any:
    """The state of torch after a step of two parameters, w and b."""
    theirs = Beside(torch, name, options, {"w": np.ones((2, 3)), "b": np.ones(3)})
    theirs.update({"w": np.ones((2, 3)), "b": np.ones(3)})
    return copy.deepcopy(theirs.optimizer.state_dict())


def _changed(torch: Any, path: list[Any], value: Any, name: str = "Adam", **options: Any) -> Any:
    given = of = _given(torch, name, **options)
    for key in path[:-1]:
        of = of[key]
    of[path[-1]] = value
    return given


FROM: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "state_dict has no state and param_groups": lambda torch: ({"a": 1}, ["w", "b"]),
    r"state_dict\['param_groups'\] is empty": lambda torch: ({"state": {}, "param_groups": []}, ["w", "b"]),
    "names is None, and state_dict has no param_names": lambda torch: (_given(torch), None),
    "names is 'w'; wanted a list": lambda torch: (_given(torch), "w"),
    r"names is \[1, 2\]; wanted paths": lambda torch: (_given(torch), [1, 2]),
    "names has 1, and state_dict has 2 parameters": lambda torch: (_given(torch), ["w"]),
    "names has 'w' twice": lambda torch: (_given(torch), ["w", "w"]),
    "names has 'q' which is no parameter; wanted each of 'b', 'w' once": lambda torch: (_given(torch), ["w", "q"]),
    "max_iter, .* as none of ASGD": lambda torch: (
        torch.optim.LBFGS([torch.nn.Parameter(torch.ones(2))]).state_dict(),
        ["w"],
    ),
    "betas, eps, lr, maximize, as none of": lambda torch: (
        torch.optim.SparseAdam([torch.nn.Parameter(torch.ones(2))]).state_dict(),
        ["w"],
    ),
    "the state of 'b' has no exp_avg_sq": lambda torch: (
        _changed(torch, ["state", 1], {"step": torch.tensor(1.0), "exp_avg": torch.ones(3)}),
        ["w", "b"],
    ),
    "the state of 'b' has no step": lambda torch: (_changed(torch, ["state", 1], {"exp_avg": 1}), ["w", "b"]),
    "the state of 'b' has extra": lambda torch: (_changed(torch, ["state", 1, "extra"], 1), ["w", "b"]),
    r"state_dict\['state'\] has 7, which no group has": lambda torch: (_changed(torch, ["state", 7], {}), ["w", "b"]),
    r"\['m'\]\['b'\] has shape \(2, 3\), but that of params\['b'\] has \(3,\)": lambda torch: (
        _given(torch),
        ["b", "w"],
    ),
    "the state of 'w' has mu_product 0.25; its group's options would have made 0.4": lambda torch: (
        _changed(torch, ["state", 0, "mu_product"], torch.tensor(0.25), "NAdam"),
        ["w", "b"],
    ),
    "the state of 'w' has eta 0.5; its group's options would have made": lambda torch: (
        _changed(torch, ["state", 0, "eta"], torch.tensor(0.5), "ASGD"),
        ["w", "b"],
    ),
    "differentiable=True of torch.optim.Adam can't be had": lambda torch: (
        _changed(torch, ["param_groups", 0, "differentiable"], True),
        ["w", "b"],
    ),
    "groups 0 and 1 of state_dict differ in amsgrad, which makes other methods": lambda torch: (
        {
            **(given := _given(torch)),
            "param_groups": [
                {**given["param_groups"][0], "params": [0]},
                {**given["param_groups"][0], "params": [1], "amsgrad": True},
            ],
        },
        ["w", "b"],
    ),
    "momentum is 1.0; wanted": lambda torch: (_given(torch, "SGD", momentum=1.0), ["w", "b"]),
}


@pytest.mark.parametrize("message", FROM)
def test_what_does_not_fit_here(message: str, torch: Any) -> None:
    """A state or names that do not fit are refused with what is wrong."""
    given, names = FROM[message](torch)
    params = {"w": np.ones((2, 3)), "b": np.ones(3)}
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=message):
        ao.compat.torch.from_torch(given, names, params)


def test_older_torch(torch: Any) -> None:
    """Its AdamW looks like its Adam, so that it must be said; options that it had not are as they were without."""
    given = _given(torch, "AdamW")
    for key in ("decoupled_weight_decay", "fused"):
        del given["param_groups"][0][key]
    params = {"w": np.ones((2, 3)), "b": np.ones(3)}
    with pytest.raises(ValueError, match="as Adam or AdamW; wanted method="):
        ao.compat.torch.from_torch(given, ["w", "b"], params)
    with pytest.raises(ValueError, match="as Adam or AdamW; wanted method="):
        ao.compat.torch.from_torch(given, ["w", "b"], params, method="SGD")
    for method, kind in (("AdamW", ao.AdamW), ("Adam", ao.chain)):
        assert isinstance(ao.compat.torch.from_torch(given, ["w", "b"], params, method=method), kind)


TO: dict[str, tuple[Callable[[], ao.Optimizer], Any]] = {
    "its eps is 1e-07, where torch's Adam would have 0.0": (ao.Adam, ["w", "b"]),
    "its stages are others": (ao.Lion, ["w", "b"]),
    r"its stages are others; .*compat.torch makes, which takes its method's state by load_state_dict": (
        lambda: ao.chain(ao.ClipGlobalNorm(1.0), ao.compat.torch.AdamW(), ao.EMA()),
        ["w", "b"],
    ),
    "Momentum.* is none that torch has": (ao.Momentum, ["w", "b"]),
    "EMA.* is none that torch has": (lambda: ao.chain(ao.SGD(), ao.EMA()), ["w", "b"]),
    "WeightDecay.* is none that torch has": (lambda: ao.chain(ao.SGD(), ao.WeightDecay(0.1)), ["w", "b"]),
    "Trace.* is none that torch has": (lambda: ao.chain(ao.RMSProp(eps=1e-8), ao.Trace()), ["w", "b"]),
    "its eps_root is 0.1, where torch's RMSprop would have 0.0": (lambda: ao.RMSProp(eps_root=0.1), ["w", "b"]),
    "its lr is 0.5, where torch's Rprop would have 1.0": (lambda: ao.Rprop(0.5), ["w", "b"]),
    "its dampening is 0.5, where torch's SGD would have 0.0": (lambda: ao.HeavyBall(0.1, 0.0, 0.5), ["w", "b"]),
    "goes by a function, which torch can't": (
        lambda: ao.chain(ao.WeightDecay(0.1, lambda path, p: True), ao.SGD()),
        ["w", "b"],
    ),
    "groups has the function": (
        lambda: ao.chain(ao.SGD(), ao.groups({lambda path, p: True: {"lr": 0.1}})),
        ["w", "b"],
    ),
    "groups has 'b' frozen": (lambda: ao.chain(ao.SGD(), ao.groups({"b": None, ...: {}})), ["w", "b"]),
    "has several methods": (lambda: ao.partition({"b": ao.SGD(), ...: ao.SGD()}), ["w", "b"]),
    "names has w, b as one group; they are": (
        lambda: ao.chain(ao.SGD(), ao.groups({"b": {"lr": 0.5}, ...: {}})),
        [["w", "b"]],
    ),
    "names has some in lists and some not": (ao.SGD, [["w"], "b"]),
    "names has not 'b'; wanted each": (ao.SGD, ["w"]),
}


@pytest.mark.parametrize("message", TO)
def test_what_torch_has_no_place_for(message: str) -> None:
    """An optimizer or names that torch has no place for are refused, with the reason."""
    make, names = TO[message]
    optimizer, params = make(), {"w": np.ones((2, 3)), "b": np.ones(3)}
    optimizer.update(params, {"w": np.ones((2, 3)), "b": np.ones(3)})
    with pytest.raises(ValueError, match=message):
        ao.compat.torch.to_torch(optimizer, names)


def test_before_the_first_step(torch: Any) -> None:
    """There is no state to carry, but options."""
    given = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.5).state_dict()
    ours: Any = ao.compat.torch.from_torch(given, ["w"], {"w": np.ones(3)})
    assert ours.lr == 0.5
    assert ours.state is None
    back = ao.compat.torch.to_torch(ours, ["w"])
    assert back["state"] == {}
    assert back["param_groups"][0]["lr"] == 0.5


def test_methods_of_whole_elements_are_refused(torch: Any) -> None:
    """torch takes a complex element as two reals; of real parameters both are the same."""
    for dtype in (torch.complex64, torch.float32):
        ours, w = ao.Adam(eps=0.0, eps_corrected=1e-8, joint=True), torch.ones(3, dtype=dtype)
        ours.update({"w": w}, {"w": torch.ones(3, dtype=dtype)})
        if dtype == torch.float32:
            assert ao.compat.torch.to_torch(ours, ["w"])["state"][0]["step"] == 1
            continue
        with pytest.raises(ValueError, match="takes complex elements as a whole; wanted joint=False"):
            ao.compat.torch.to_torch(ours, ["w"])
