"""compat.optax beside optax itself: signatures, trajectories under options drawn at random, and states carried over.

In float64 each of 100 steps rounds some twenty times to 2**-53 on either side, and both sides keep what they rounded:
100 * 20 * 2 * 2**-53 is below 1e-12 of the largest number on the way. What differs in more than order is at the
entries. So many steps are past all warmups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library
from tests.support.options import Draw, Options, draws, flag, one_of, powers, uniform
from tests.support.peers import Optax
from tests.support.xla import quick

pytestmark = pytest.mark.usefixtures("quickly")

HALF_WAY = 50

SHAPES: tuple[dict[str, Any], ...] = (
    {"w": (4, 3), "b": (5,), "s": ()},
    {"layer": {"w": (2, 6), "b": (1,)}, "more": [(3, 2, 4), (7,)]},
)
"""The shapes of the parameters, in containers."""


class Counting:
    """A schedule of the count from 0, for both: in operations that round alike."""

    def __init__(self, high: float, fall: float) -> None:
        self.high, self.fall = high, fall

    def __call__(self, count: Any) -> Any:
        return self.high / (1 + self.fall * count)


def rates(low: float, high: float) -> Draw:
    """A number, or a schedule."""

    def draw(rng: np.random.Generator) -> Any:
        value = powers(low, high)(rng)
        return value if rng.integers(2) else Counting(value, float(rng.uniform(0, 0.1)))

    return draw


def mask(rng: np.random.Generator) -> str | None:
    """A mask, made when the parameters are known."""
    return [None, "tree", "all", "none"][rng.integers(4)]


LR, BETA, EPS, ROOT, DECAY = rates(-3, -1), uniform(0.5, 0.99), powers(-8, -2), one_of(0.0, 1e-3), rates(-3, -1)
DTYPE = one_of(None, "float64")
ADAM: dict[str, Draw] = {"learning_rate": LR, "b1": BETA, "b2": BETA, "eps": EPS}


class Row(NamedTuple):
    """What is drawn for each option."""

    options: dict[str, Draw]
    bound: Callable[[Options], float] = lambda _: 1e-12
    """Relative to the largest parameter, in float64."""
    ulps: Callable[[Options], float] = lambda _: 4.0
    """A step, of the largest parameter, in float32."""
    draws: int = 4


METHODS: dict[str, Row] = {
    "sgd": Row({"learning_rate": LR, "momentum": one_of(None, 0.9), "nesterov": flag, "accumulator_dtype": DTYPE}),
    "adam": Row({**ADAM, "eps_root": ROOT, "mu_dtype": DTYPE, "nesterov": flag}),
    "adamw": Row({**ADAM, "eps_root": ROOT, "mu_dtype": DTYPE, "weight_decay": DECAY, "mask": mask, "nesterov": flag}),
    "nadam": Row({**ADAM, "eps_root": ROOT, "mu_dtype": DTYPE, "nesterov": flag}),
    "nadamw": Row({**ADAM, "eps_root": ROOT, "mu_dtype": DTYPE, "weight_decay": DECAY, "mask": mask, "nesterov": flag}),
    "amsgrad": Row(
        {**ADAM, "eps_root": ROOT, "mu_dtype": DTYPE, "bias_correction_mu": flag, "bias_correction_nu": flag}
    ),
    "adamax": Row(ADAM),
    "adamaxw": Row({**ADAM, "weight_decay": DECAY, "mask": mask}),
    "adabelief": Row({**ADAM, "eps_root": powers(-8, -4), "nesterov": flag}),
    "adan": Row({**ADAM, "b3": BETA, "eps_root": ROOT, "weight_decay": DECAY, "mask": mask}),
    "adagrad": Row(
        {"learning_rate": LR, "initial_accumulator_value": one_of(0.0, 0.1), "eps": one_of(0.0, 1e-7, 1e-3)}
    ),
    "adadelta": Row(
        {
            "learning_rate": one_of(None, 0.5, Counting(0.5, 0.01)),
            "rho": BETA,
            "eps": EPS,
            "weight_decay": rates(-4, -2),
            "weight_decay_mask": mask,
        }
    ),
    "rmsprop": Row(
        {
            "learning_rate": LR,
            "decay": BETA,
            "eps": powers(-6, -2),
            "initial_scale": one_of(0.0, 0.5),
            "eps_in_sqrt": flag,
            "centered": flag,
            "momentum": one_of(None, 0.8),
            "nesterov": flag,
            "bias_correction": flag,
        },
        bound=lambda o: 1e-9 if o["centered"] else 1e-12,  # a difference of two means that are nearly the same
        ulps=lambda o: 2e3 if o["centered"] else 4.0,
        draws=8,
    ),
    "radam": Row({**ADAM, "b2": uniform(0.7, 0.99), "eps_root": ROOT, "threshold": uniform(4.1, 8), "nesterov": flag}),
    "yogi": Row(ADAM),
    "lion": Row({"learning_rate": LR, "b1": BETA, "b2": BETA, "mu_dtype": DTYPE, "weight_decay": DECAY, "mask": mask}),
    "lamb": Row({**ADAM, "eps_root": ROOT, "weight_decay": DECAY, "mask": mask}),
    "lars": Row(
        {
            "learning_rate": LR,
            "weight_decay": DECAY,
            "weight_decay_mask": mask,
            "trust_coefficient": powers(-3, 0),
            "eps": one_of(0.0, 1e-3),
            "trust_ratio_mask": mask,
            "momentum": one_of(0.0, 0.9),
            "nesterov": flag,
        }
    ),
    "signum": Row({"learning_rate": LR, "beta": BETA, "accumulator_dtype": DTYPE}),
    "sign_sgd": Row({"learning_rate": LR}),
    "rprop": Row(
        {
            "learning_rate": powers(-4, -1),
            "eta_minus": uniform(0.3, 0.9),
            "eta_plus": uniform(1.01, 1.5),
            "min_step_size": powers(-8, -3),
            "max_step_size": powers(-2, 1),
        }
    ),
    "adafactor": Row(
        {
            "learning_rate": one_of(None, 0.01, Counting(0.1, 0.1)),
            "min_dim_size_to_factor": one_of(1, 2, 3, 128),
            "decay_rate": uniform(0.5, 1.0),
            "decay_offset": one_of(0),
            "multiply_by_parameter_scale": flag,
            "clipping_threshold": one_of(None, 0.5, 2.0),
            "momentum": one_of(None, 0.9),
            "dtype_momentum": one_of("float64"),
            "weight_decay_rate": one_of(None, 1e-3, Counting(1e-3, 0.1)),
            "eps": one_of(1e-30, 1e-6),
            "factored": flag,
            "weight_decay_mask": mask,
        },
        bound=lambda _: 1e-5,  # optax has its decay in float32, 6e-8 off, which its power and the steps multiply
    ),
    "contrib.muon": Row(
        {
            "learning_rate": LR,
            "ns_coeffs": one_of((3.4445, -4.775, 2.0315), "standard", "dion", ((3.0, -4.0, 2.0), (2.0, -1.5, 0.5))),
            "ns_steps": one_of(5, 6),
            "beta": BETA,
            "eps": EPS,
            "weight_decay": one_of(0.0, 0.01),
            "weight_decay_mask": mask,
            "mu_dtype": DTYPE,
            "nesterov": flag,
            "adaptive": flag,
            "preconditioning": one_of("frobenius"),
            "adam_b1": BETA,
            "adam_b2": BETA,
            "adam_eps_root": ROOT,
            "adam_weight_decay": one_of(0.0, 0.01),
            "adam_learning_rate": one_of(None, 0.01, Counting(0.01, 0.1)),
            "muon_weight_dimension_numbers": one_of(None),
            "consistent_rms": one_of(None, 0.2),
        },
        bound=lambda _: 1e-10,  # products of matrices, each of five times three, added in another order
    ),
    "contrib.schedule_free_sgd": Row(
        {
            "learning_rate": powers(-2, 0),
            "warmup_steps": one_of(None, 10),
            "b1": uniform(0.3, 0.95),
            "weight_decay": one_of(None, 0.01),
            "weight_lr_power": one_of(0.5, 1.0, 2.0),
            "state_dtype": DTYPE,
        },
        bound=lambda o: 1e-6 if o["warmup_steps"] else 1e-11,  # optax's warmup is float32; and x is solved for anew
    ),
    "contrib.schedule_free_adamw": Row(
        {
            "learning_rate": powers(-3, -1),
            "warmup_steps": one_of(None, 10),
            "b1": uniform(0.3, 0.95),
            "b2": BETA,
            "eps": EPS,
            "weight_decay": one_of(0.0, 0.01),
            "weight_lr_power": one_of(0.5, 1.0, 2.0),
            "state_dtype": DTYPE,
        },
        bound=lambda o: 1e-6 if o["warmup_steps"] else 1e-11,
    ),
}


MASK = {"layer": {"w": True, "b": False}, "more": [True, False]}
CHAINS: dict[str, Callable[[Any], Any]] = {
    "clip, adamw": lambda o: o.chain(o.clip_by_global_norm(1.0), o.adamw(0.01, mask=MASK)),
    "cut, centralize, schedule": lambda o: o.chain(o.clip(0.5), o.centralize(), o.sgd(Counting(0.1, 0.1), 0.9)),
    "unitwise, decay, trace, rate": lambda o: o.chain(
        o.adaptive_grad_clip(0.3), o.add_decayed_weights(0.1, MASK), o.trace(0.8, True), o.scale_by_learning_rate(0.05)
    ),
    "ema, block rms, scale down": lambda o: o.chain(
        o.ema(0.7), o.clip_by_block_rms(0.1), o.scale_by_param_block_rms(), o.scale(-0.1), o.scale(0.5)
    ),
    "plain ema, schedule, scale down, trace": lambda o: o.chain(
        o.ema(0.7, debias=False), o.scale_by_schedule(Counting(0.1, 0.1)), o.scale(-1.0), o.trace(0.5)
    ),
    "up and down": lambda o: o.chain(o.scale(-1.0), o.adam(0.01), o.trace(0.5, True), o.scale(0.1)),
    "twice down": lambda o: o.chain(
        o.scale_by_learning_rate(Counting(0.5, 0.1)), o.trace(0.5), o.scale_by_learning_rate(0.5)
    ),
    "down, then down": lambda o: o.chain(o.sgd(0.1), o.scale_by_learning_rate(0.5)),
    "trust, nonnegative": lambda o: o.chain(
        o.scale_by_trust_ratio(trust_coefficient=0.1, eps=0.01), o.sgd(0.5), o.keep_params_nonnegative()
    ),
    "rate, no flip": lambda o: o.chain(o.scale_by_learning_rate(0.5, flip_sign=False), o.nadamw(0.01)),
    "MultiSteps": lambda o: o.MultiSteps(o.adamw(Counting(0.1, 0.1)), 3, accumulator_dtype="float64"),
    "MultiSteps, sum": lambda o: o.MultiSteps(
        o.lion(0.01), lambda n: 2 + n // 10, use_grad_mean=False, accumulator_dtype="float64"
    ),
    "apply_if_finite": lambda o: o.apply_if_finite(o.chain(o.clip_by_global_norm(1.0), o.adam(0.1)), 2**31 - 1),
}
"""Transformations composed, by the names that both have."""

TRANSFORMS = {
    *("MultiSteps", "adaptive_grad_clip", "add_decayed_weights", "apply_if_finite", "centralize", "chain", "clip"),
    *("clip_by_block_rms", "clip_by_global_norm", "ema", "keep_params_nonnegative", "lookahead", "scale"),
    *("scale_by_learning_rate", "scale_by_param_block_rms", "scale_by_schedule", "scale_by_trust_ratio", "trace"),
}


def _resolved(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


@pytest.fixture(scope="module")
def optax() -> Any:
    return pytest.importorskip("optax", reason="optax is not installed")


def _map(f: Callable[..., Any], tree: Any, *others: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _map(f, v, *(o[k] for o in others)) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_map(f, v, *(o[i] for o in others)) for i, v in enumerate(tree)]
    return f(tree, *others)


def _arrays(rng: np.random.Generator, shapes: Any, dtype: str) -> Any:
    return _map(lambda shape: np.asarray(rng.normal(size=shape)).astype(dtype), shapes)


def _options(row: Row, rng: np.random.Generator, shapes: Any, dtype: str) -> Options:
    """A draw of all options, with masks made for these parameters."""
    made = {name: draw(rng) for name, draw in row.options.items()}
    for name, value in made.items():
        if name.endswith("mask"):
            kinds = {
                "tree": _map(lambda shape: len(shape) > 1, shapes),
                "all": True,
                "none": False,
                None: True if name == "trust_ratio_mask" else None,
            }
            made[name] = kinds[value]
        if value == "float64":
            made[name] = dtype
    return made


def _leaves(tree: Any) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(tree, dict | list):
        for v in (tree[k] for k in sorted(tree)) if isinstance(tree, dict) else tree:
            yield from _leaves(v)
    else:
        yield np.asarray(tree)


def _apart(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to the largest parameter."""
    both = list(zip(_leaves(ours), _leaves(theirs), strict=True))
    largest = max(1.0, *(float(np.max(np.abs(b), initial=0)) for _, b in both))
    assert all(np.isfinite(a).all() and np.isfinite(b).all() for a, b in both)
    return max(float(np.max(np.abs(a - b), initial=0)) for a, b in both) / largest


def _rng(name: str, k: int) -> np.random.Generator:
    return np.random.default_rng([k, *name.encode()])


def test_every_optimizer_of_both_has_a_row() -> None:
    """The table has all that compat.optax exports, but schedules, transformations and the carrying of states."""
    from anyoptim.compat import optax as compat

    here = {
        *(n for n in compat.__all__ if callable(getattr(compat, n))),
        *(f"contrib.{n}" for n in compat.contrib.__all__),
    }
    schedules = {n for n in here if n.endswith(("schedule", "schedules", "_decay"))} - {"scale_by_schedule"}
    solvers = {"lbfgs", "polyak_sgd", "scale_by_zoom_linesearch"}  # in test_optax_lbfgs
    assert here - schedules - solvers - {"from_optax", "to_optax"} == {*METHODS} | TRANSFORMS


@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_optaxs(name: str, optax: Any) -> None:
    """Names, kinds, order and defaults; and every option is drawn."""
    ours = inspect.signature(_resolved(ao.compat.optax, name)).parameters
    theirs = inspect.signature(_resolved(optax, name)).parameters

    def shown(p: inspect.Parameter) -> Any:
        default = np.dtype(p.default).name if p.name == "dtype_momentum" else p.default
        return p.name, p.kind, default

    mine = [shown(p) for p in ours.values()]
    assert mine == [shown(p) for p in theirs.values()]
    assert {*METHODS[name].options} == {*ours}


@pytest.mark.parametrize(("name", "k"), draws({name: row.draws for name, row in METHODS.items()}, 1 / 3))
def test_steps_of_float64(name: str, k: int, optax: Any, need: Callable[[str], Library]) -> None:
    """Beside optax, and over to us in the middle, and over to optax: one trajectory, to round-off."""
    row, rng = METHODS[name], _rng(name, k)
    shapes = SHAPES[k % len(SHAPES)]
    options = _options(row, rng, shapes, "float64")
    with need("jax-x64").context():
        params = _arrays(rng, shapes, "float64")
        theirs = Optax(_resolved(optax, name)(**options), params)
        made = _resolved(ao.compat.optax, name)
        optimizer, ours = made(**options), _map(np.array, params)
        first, second = ([_arrays(rng, shapes, "float64") for _ in range(HALF_WAY)] for _ in range(2))
        theirs.steps(first)
        for grads in first:
            optimizer.update(ours, grads)
        taken, went = made(**options), _map(np.array, theirs.params)
        ao.compat.optax.from_optax(theirs.state, taken, went, step=HALF_WAY)
        back = theirs.elsewhere(ours, ao.compat.optax.to_optax(optimizer, theirs.transform.init(theirs.params)))
        theirs.steps(second)
        back.steps(second)
        for grads in second:
            optimizer.update(ours, grads)
            taken.update(went, grads)
        assert _apart(ours, theirs.params) <= row.bound(options), options
        assert _apart(went, theirs.params) <= row.bound(options), options
        assert _apart(back.params, theirs.params) <= row.bound(options), options


@pytest.mark.covering(1)  # what each option does is compared in float64
@pytest.mark.parametrize(("name", "k"), draws({name: row.draws for name, row in METHODS.items()}, 1 / 3))
def test_float32(name: str, k: int, optax: Any, need: Callable[[str], Library]) -> None:
    """Some ulps of the largest parameter a step, on average: XLA adds and multiplies in one rounding, NumPy in two."""
    row, rng, steps = METHODS[name], _rng(name, k), 50
    shapes = SHAPES[k % len(SHAPES)]
    options = _options(row, rng, shapes, "float32")
    with need("jax").context():
        params = _arrays(rng, shapes, "float32")
        theirs = Optax(_resolved(optax, name)(**options), params)
        optimizer, ours = _resolved(ao.compat.optax, name)(**options), _map(np.array, params)
        grads = [_arrays(rng, shapes, "float32") for _ in range(steps)]
        theirs.steps(grads)
        for each in grads:
            optimizer.update(ours, each)
        assert _apart(ours, theirs.params) <= row.ulps(options) * steps * 2**-23, options


@pytest.mark.parametrize("name", sorted(TRANSFORMS - {"chain", "MultiSteps"}))
def test_signatures_of_transformations(name: str, optax: Any) -> None:
    """Names, kinds, order and defaults."""
    ours, theirs = (inspect.signature(getattr(of, name)).parameters for of in (ao.compat.optax, optax))
    assert [(p.name, p.kind, p.default) for p in ours.values()] == [
        (p.name, p.kind, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name: str, optax: Any, need: Callable[[str], Library]) -> None:
    """64 updates beside optax, one in ten not finite where that is skipped; over to us and to optax after 32 of them.

    Which is amid the updates of a step where three are gathered.
    """
    rng, shapes = _rng(name, 0), SHAPES[1]
    with need("jax-x64").context():
        params = _arrays(rng, shapes, "float64")
        make = CHAINS[name]
        theirs, optimizer, ours = Optax(make(optax), params), make(ao.compat.optax), _map(np.array, params)
        grads = [_arrays(rng, shapes, "float64") for _ in range(64)]
        if "if_finite" in name:
            for each in grads[9::10]:
                each["layer"]["w"][0, 0] = np.nan
        theirs.steps(grads[:32])
        for each in grads[:32]:
            optimizer.update(ours, each)
        taken, went = make(ao.compat.optax), _map(np.array, theirs.params)
        ao.compat.optax.from_optax(theirs.state, taken, went, step=None if "Multi" in name else 32 - 3 * ("if" in name))
        back = theirs.elsewhere(ours, ao.compat.optax.to_optax(optimizer, theirs.transform.init(theirs.params)))
        theirs.steps(grads[32:])
        back.steps(grads[32:])
        for each in grads[32:]:
            optimizer.update(ours, each)
            taken.update(went, each)
        for one in (ours, went, back.params):
            assert _apart(one, theirs.params) <= 1e-12


def test_lookahead(optax: Any, need: Callable[[str], Library]) -> None:
    """The fast parameters, and `eval_params` the slow ones."""
    with need("jax-x64").context():
        rng, shapes = np.random.default_rng(3), SHAPES[0]
        params = _arrays(rng, shapes, "float64")
        transform = optax.lookahead(optax.adam(0.1), 4, 0.3)
        import jax

        theirs = Optax(transform, optax.LookaheadParams.init_synced(_map(jax.numpy.array, params)))
        optimizer = ao.compat.optax.lookahead(ao.compat.optax.adam(0.1), 4, 0.3)
        grads = [_arrays(rng, shapes, "float64") for _ in range(30)]
        theirs.steps(grads)
        for each in grads:
            optimizer.update(params, each)
        assert _apart(params, theirs.params.fast) <= 1e-12
        assert _apart(optimizer.eval_params(params), theirs.params.slow) <= 1e-12
        with pytest.raises(ValueError, match=r"Lookahead.* has no place in a state of optax"):
            ao.compat.optax.to_optax(optimizer, theirs.state)


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "mu_dtype": (lambda o: o.adam(0.1, mu_dtype="bfloat16"), "mu_dtype is bfloat16"),
    "accumulator_dtype": (lambda o: o.sgd(0.1, 0.9, accumulator_dtype=np.float16), "accumulator_dtype is float16"),
    "mask, a function": (lambda o: o.adamw(0.1, mask=lambda params: params), r"mask=mask\(params\)"),
    "mask, no bools": (lambda o: o.adamw(0.1, mask={"w": 1.5}), r"mask\['w'\] is 1.5"),
    "rprop, a schedule": (lambda o: o.rprop(lambda n: 0.1), "learning_rate"),
    "muon, preconditioning": (lambda o: o.contrib.muon(0.1, preconditioning="aol"), "preconditioning is 'aol'"),
    "muon, dimensions": (
        lambda o: o.contrib.muon(0.1, muon_weight_dimension_numbers={"w": 1}),
        "muon_weight_dimension_numbers",
    ),
    "muon, coefficients": (lambda o: o.contrib.muon(0.1, ns_coeffs="other"), "ns_coeffs is 'other'"),
    "muon, too many": (lambda o: o.contrib.muon(0.1, ns_coeffs="dion", ns_steps=4), "ns_coeffs has 5 for 4"),
    "schedule_free, a schedule": (lambda o: o.contrib.schedule_free_sgd(lambda n: 0.1), "learning_rate"),
    "axis": (lambda o: o.adaptive_grad_clip(0.1, axis=1), "axis is 1"),
    "min_norm": (lambda o: o.scale_by_trust_ratio(0.1), "min_norm is 0.1"),
    "errors": (lambda o: o.apply_if_finite(o.adam(0.1), 5), "max_consecutive_errors is 5"),
    "skip": (lambda o: o.MultiSteps(o.adam(0.1), 2, should_skip_update_fn=len), "should_skip_update_fn"),
    "reset": (lambda o: o.lookahead(o.adam(0.1), 2, 0.5, True), "reset_state is True"),
    "climbing": (lambda o: o.chain(o.clip(1.0), o.scale(0.1)), "climb"),
    "decay after": (lambda o: o.chain(o.adam(0.1), o.add_decayed_weights(0.1)), "would grow"),
    "mean after": (lambda o: o.chain(o.adam(0.1), o.ema(0.1)), "after the direction"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    """Options that can't be met are refused by name."""
    make, says = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=says):
        make(ao.compat.optax)


def test_masks_by_prefix_and_what_they_forget() -> None:
    """A mask may have one bool for all below it; a parameter without one is named."""
    params: Any = {"a": {"w": np.ones(2), "b": np.ones(2)}, "c": np.ones(2)}
    grads = _map(np.zeros_like, params)
    ao.compat.optax.adamw(0.1, weight_decay=0.5, mask={"a": True, "c": False}).update(params, grads)
    assert [params["a"]["w"][0], params["a"]["b"][0], params["c"][0]] == [0.95, 0.95, 1.0]
    with pytest.raises(ValueError, match="mask says nothing of 'c'"):
        ao.compat.optax.adamw(0.1, mask={"a": True}).update(params, grads)


def test_all_or_nothing(optax: Any, need: Callable[[str], Library]) -> None:
    """States of other transformations, parameters, shapes and counts: named, and the optimizer goes on as it was."""
    with need("jax").context():
        params = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}
        optimizer = ao.compat.optax.adamw(0.1)
        optimizer.update(params, params)
        before = optimizer.state_dict()
        adam, scheduled = optax.adam(0.1), optax.adam(optax.constant_schedule(0.1))
        bad: dict[str, Any] = {
            "has a TraceState; wanted a ScaleByAdamState": optax.sgd(0.1, 0.9).init(params),
            "has no ScaleByAdamState": optax.sgd(0.1).init(params),
            "a ScaleByAdamState, for which": optax.chain(adam, adam).init(params),
            "has nothing for params at 'b'": adam.init({"w": params["w"]}),
            "has 'c', for which params": adam.init({**params, "c": params["b"]}),
            r"has shape \(3, 2\) for 'w'; wanted \(2, 3\)": adam.init({**params, "w": params["w"].T}),
            "counts different steps": (scheduled.init(params)[0], scheduled.init(params)[1]._replace(count=3)),
            "wanted the state of optax": {"mu": params},
        }
        for says, state in bad.items():
            with pytest.raises((ValueError, TypeError), match=says):
                ao.compat.optax.from_optax(state, optimizer, params)
        after = optimizer.state_dict()
        assert str(after) == str(before)
        with pytest.raises(ValueError, match="has taken no step"):
            ao.compat.optax.to_optax(ao.compat.optax.adam(0.1), adam.init(params))
        with pytest.raises(ValueError, match="different parameters: 'b'"):
            ao.compat.optax.to_optax(optimizer, adam.init({"w": params["w"]}))
        with pytest.raises(ValueError, match=r"has shape \(3, 2\) for 'w'"):
            ao.compat.optax.to_optax(optimizer, adam.init({**params, "w": params["w"].T}))
        optimizer.update(params, {"w": None, "b": params["b"]})
        with pytest.raises(ValueError, match="different numbers of steps"):
            ao.compat.optax.to_optax(optimizer, adam.init(params))


def test_states_of_half_precision_and_of_jax(optax: Any, need: Callable[[str], Library]) -> None:
    """Optax's bfloat16 slots arrive as float32, on any library, and leave as bfloat16; nothing shares memory."""
    lib = need("jax")
    import jax

    params = {"w": lib.array(np.ones((2, 3)), "bfloat16")}
    transform, optimizer = optax.adam(0.1), ao.compat.optax.adam(0.1)
    _, state = transform.update(params, transform.init(params), params)
    ao.compat.optax.from_optax(state, optimizer, params)
    slots = optimizer.state.slots  # type: ignore[union-attr] # it has one
    assert slots["m"]["w"].dtype == "float32"
    assert isinstance(slots["m"]["w"], jax.Array)
    back = ao.compat.optax.to_optax(optimizer, transform.init(params))
    assert back[0].mu["w"].dtype == "bfloat16"
    assert int(back[0].count) == 1
    assert np.array_equal(back[0].mu["w"], state[0].mu["w"])
    host = {"w": np.ones((2, 3), np.float32)}
    here = ao.compat.optax.adam(0.1)
    ao.compat.optax.from_optax(state, here, host)
    given = ao.compat.optax.to_optax(here, transform.init(host))
    kept = np.array(given[0].mu["w"])
    here.update(host, host)
    assert np.array_equal(given[0].mu["w"], kept)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.product) for part in (1, 2))])
def test_numbers_that_are_traced(part: int, optax: Any, need: Callable[[str], Library]) -> None:
    """Every numeric argument of a third of the constructors may be traced; with all that optax takes so, optax's steps.

    The tolerance is that of a step of a handful of float32 operations, on values near 1.
    """
    need("jax")
    import jax
    import jax.numpy as jnp

    p, g = {"a": jnp.asarray([1.0, -2.0, 0.5])}, {"a": jnp.asarray([0.5, 0.25, -1.0])}

    def steps(module: Any, name: str, options: dict[str, Any], n: int = 2) -> Any:
        made, params = getattr(module, name)(**options), p
        state = made.init(params)
        for _ in range(n):
            if module is optax:
                updates, state = made.update(g, state, params)
                params = optax.apply_updates(params, updates)
            else:
                params, state = made.step(params, g, state)
        return params["a"]

    def taken(module: Any, name: str, needed: dict[str, Any], key: str, number: float) -> bool:
        """Whether this argument may be traced, alone."""
        try:
            jax.eval_shape(lambda v: steps(module, name, {**needed, key: v}, 1), number)
        except jax.errors.JAXTypeError:
            return False
        return True

    compared = 0
    for name in ao.compat.optax.__all__[part::3]:
        constructor = getattr(ao.compat.optax, name)
        if name in {"from_optax", "to_optax"} or not callable(constructor) or not hasattr(optax, name):
            continue
        parameters = inspect.signature(constructor).parameters
        needed = {key: 0.1 for key, of in parameters.items() if of.default is of.empty}
        if "learning_rate" not in parameters or not isinstance(constructor(**needed), ao.Optimizer):
            continue
        numbers = {key: 0.1 if key == "learning_rate" else of.default for key, of in parameters.items()}
        numbers = {key: float(v) for key, v in numbers.items() if type(v) in {int, float}}
        assert all(taken(ao.compat.optax, name, needed, key, v) for key, v in numbers.items()), name
        numbers = {key: v for key, v in numbers.items() if taken(optax, name, needed, key, v)}  # others it wants known
        theirs, ours = (
            quick(lambda given, m=module, n=name, o=needed: steps(m, n, {**o, **given}))(numbers)
            for module in (optax, ao.compat.optax)
        )
        compared += len(numbers)
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-6, err_msg=f"{name}({numbers})")
    assert compared > 15


def test_muon_without_matrices(optax: Any, need: Callable[[str], Library]) -> None:
    """A tree of vectors is Adam's alone, in optax and here: but for the float32 in which optax corrects its means.

    That is 2**-24 of 1, where 1 - 0.999**1 is left: 6e-5 of the mean square, and 3e-5 of the step of 0.15.
    """
    need("jax")
    import jax.numpy as jnp

    p, g = {"a": jnp.ones(3)}, {"a": jnp.full(3, 0.5)}
    theirs = optax.contrib.muon(0.1)
    updates, _ = theirs.update(g, theirs.init(p), p)
    made = ao.compat.optax.contrib.muon(0.1)
    moved, _ = made.step(p, g, made.init(p))
    np.testing.assert_allclose(moved["a"], optax.apply_updates(p, updates)["a"], rtol=5e-6)


COMPLEX: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("adam", "adamw", "nadam", "amsgrad", "adamax", "adabelief", "adan", "radam", "lamb")},
    **{name: {} for name in ("adagrad", "lion", "signum", "sign_sgd", "lars")},
    "rmsprop": {"centered": True},
    "sgd": {"momentum": 0.9, "nesterov": True},
}
"""The constructors that take complex parameters, with options. Yogi's m starts at 1e-6 in both parts here."""


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_elements_are_taken_as_a_whole(name: str, optax: Any, need: Callable[[str], Library]) -> None:
    """As optax takes them, by their moduli; and states go over to each other, in which real slots are complex there."""
    with need("jax-x64").context():
        _as_a_whole(name, optax)


def _as_a_whole(name: str, optax: Any) -> None:
    import jax.numpy as jnp

    rng, lr = np.random.default_rng(40), 0.1
    p, *grads = ({"z": rng.normal(size=(3, 4)) + 1j * rng.normal(size=(3, 4))} for _ in range(HALF_WAY + 1))
    theirs, make = getattr(optax, name)(lr, **COMPLEX[name]), getattr(ao.compat.optax, name)
    ours, q = make(lr, **COMPLEX[name]), {"z": jnp.asarray(p["z"])}
    state = theirs.init(q)
    assert q["z"].dtype == "complex128"
    for t, g in enumerate(grads):
        if t == HALF_WAY // 2:
            taken = make(lr, **COMPLEX[name])
            ao.compat.optax.from_optax(state, taken, p, step=t)
            state, ours = ao.compat.optax.to_optax(ours, state), taken
        ours.update(p, g)
        updates, state = theirs.update({"z": jnp.asarray(g["z"])}, state, q)
        q = optax.apply_updates(q, updates)
    assert np.max(np.abs(p["z"] - np.asarray(q["z"]))) < 1e-12 * HALF_WAY
    assert np.any(p["z"].imag)
