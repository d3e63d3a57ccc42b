"""compat.keras beside Keras on JAX: signatures, trajectories under options drawn at random, and states carried over.

In float64 each of 106 steps rounds some thirty times to 2**-53 on either side, and both sides keep what they rounded:
106 * 30 * 2 * 2**-53 is below 1e-12 of the largest number on the way. What differs in more than order is at the
entries. So many steps are past all warmups, and half of them are amid the gathering of two and of three gradients, and
amid the overwriting of each seventh step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import anyoptim as ao
from tests.support.libraries import Library
from tests.support.options import Draw, Options, draws, flag, one_of, powers, uniform
from tests.support.peers import Keras

pytestmark = pytest.mark.usefixtures("quickly")

HALF_WAY = 53

SHAPES: tuple[dict[str, tuple[int, ...]], ...] = (
    {"w": (4, 3), "b": (5,), "s": ()},
    {"embedding": (3, 2), "tall": (6, 2), "wide": (3, 4), "cube": (3, 2, 4), "bias": (7,)},
)


def _schedule(rng: np.random.Generator) -> Any:
    """One of Keras's own, made when Keras is there; or a number."""
    value = float(10 ** rng.uniform(-3, -1))
    return value if rng.integers(2) else ("schedule", value)


LR, BETA, EPS = _schedule, uniform(0.5, 0.99), powers(-8, -2)
GENERAL: dict[str, Draw] = {
    "clip": one_of(None, "clipnorm", "clipvalue", "global_clipnorm"),
    "loss_scale_factor": one_of(None, 128.0, 3.0),
    "name": one_of(None, "mine"),
}
"""The options of clipping, of which one goes at a time. Decay, average and accumulation take turns."""

TURNS: tuple[Options, ...] = (
    {"weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.7},
    {"weight_decay": None, "gradient_accumulation_steps": 3},
    {"weight_decay": None, "use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 7},
    {"weight_decay": 0.02, "gradient_accumulation_steps": 2},
)
ADAM: dict[str, Draw] = {"learning_rate": LR, "beta_1": BETA, "beta_2": BETA, "epsilon": EPS}


class Row(NamedTuple):
    """What is drawn for each option of a method's own."""

    options: dict[str, Draw]
    bound: float = 1e-12
    """Relative to the largest parameter, in float64."""
    ulps: float = 8.0
    """A step, of the largest parameter, in float32."""


METHODS: dict[str, Row] = {
    "SGD": Row({"learning_rate": LR, "momentum": one_of(0.0, 0.9), "nesterov": flag}),
    "RMSprop": Row(
        {"learning_rate": LR, "rho": BETA, "momentum": one_of(0.0, 0.8), "epsilon": powers(-4, -2), "centered": flag},
        bound=1e-9,  # centered, a difference of two means that are nearly the same
        ulps=2e3,
    ),
    "Adam": Row({**ADAM, "amsgrad": flag}),
    "AdamW": Row({**ADAM, "amsgrad": flag, "weight_decay": uniform(0.0, 0.1)}),
    "Adadelta": Row({"learning_rate": LR, "rho": BETA, "epsilon": EPS}),
    "Adagrad": Row({"learning_rate": LR, "initial_accumulator_value": uniform(0.0, 0.5), "epsilon": EPS}),
    "Adamax": Row(ADAM),
    "Adafactor": Row(
        {
            "learning_rate": LR,
            "beta_2_decay": uniform(-1.0, -0.5),
            "epsilon_1": one_of(1e-30, 1e-6),
            "epsilon_2": powers(-4, -1),
            "clip_threshold": uniform(0.5, 2),
            "relative_step": flag,
        },
        bound=1e-6,  # Keras takes means in float32
    ),
    "Nadam": Row(ADAM, bound=2e-11),  # a product of 106 factors there, a sum of logarithms here
    "Lion": Row({"learning_rate": LR, "beta_1": BETA, "beta_2": BETA}),
    "Lamb": Row(ADAM),
    "Muon": Row(
        {
            "learning_rate": LR,
            "adam_beta_1": BETA,
            "adam_beta_2": BETA,
            "adam_weight_decay": one_of(None, 0.01),
            "epsilon": EPS,
            "exclude_layers": one_of(None, ["tall"]),
            "exclude_embeddings": flag,
            "muon_a": uniform(3, 3.5),
            "muon_b": uniform(-4.8, -4),
            "muon_c": uniform(1.8, 2.1),
            "adam_lr_ratio": uniform(0.5, 2),
            "momentum": uniform(0.5, 0.95),
            "ns_steps": one_of(3, 5),
            "nesterov": flag,
            "rms_rate": one_of(None, 0.2),
        },
        bound=1e-5,  # Keras takes the norm in float32, which the polynomials multiply
        ulps=500.0,
    ),
    "ScheduleFreeAdamW": Row(
        {**ADAM, "beta_1": uniform(0.3, 0.95), "warmup_steps": one_of(0, 10)},
        bound=2e-11,  # x is solved for at each step, which divides by beta_1
    ),
}
DRAWS = 4
MATRIX = {"Muon"}


@pytest.fixture
def keras(need: Callable[[str], Library], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Keras on JAX; in float64 where the test says so."""
    need("jax")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # where it would write a file when it is imported
    keras = pytest.importorskip("keras", reason="keras is not installed")
    if keras.config.backend() != "jax":
        pytest.skip(f"keras was imported before, for {keras.config.backend()}")
    before = keras.config.floatx()
    yield keras
    keras.config.set_floatx(before)


def _options(row: Row, k: int, rng: np.random.Generator) -> Options:
    """A draw of all options."""
    drawn = {name: draw(rng) for name, draw in {**GENERAL, **row.options}.items()}
    made = {**TURNS[k % len(TURNS)], **drawn}
    clip = made.pop("clip")
    if clip is not None:
        made[clip] = float(rng.uniform(0.5, 2))
    return made


def _scheduled(options: Options, schedules: Any) -> Options:
    """The options with the schedule, if one was drawn, as Keras's or as ours."""
    lr = options["learning_rate"]
    return {**options, "learning_rate": schedules.InverseTimeDecay(lr[1], 10, 0.3) if isinstance(lr, tuple) else lr}


def _apart(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest difference, relative to the largest parameter."""
    assert all(np.isfinite(a).all() for a in [*ours.values(), *theirs.values()])
    largest = max(1.0, *(float(np.max(np.abs(a), initial=0)) for a in theirs.values()))
    return max(float(np.max(np.abs(ours[k] - a), initial=0)) for k, a in theirs.items()) / largest


def _rng(name: str, k: int) -> np.random.Generator:
    return np.random.default_rng([k, *name.encode()])


def _drawn(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, Any]:
    return {k: np.asarray(rng.normal(size=shape)).astype(dtype) for k, shape in shapes.items()}


def test_every_optimizer_of_both_has_a_row() -> None:
    """The table has all that compat.keras exports, but schedules and the carrying of states."""
    assert {*ao.compat.keras.__all__} - {"schedules", "from_keras", "to_keras"} == {*METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_signatures_are_keras(name: str, keras: Any) -> None:
    """Names, order and defaults, but for what Keras takes to refuse it; and every option is drawn."""
    ours = inspect.signature(getattr(ao.compat.keras, name)).parameters
    theirs = inspect.signature(getattr(keras.optimizers, name)).parameters
    named = [(p.name, p.kind, p.default) for p in theirs.values() if p.kind is not p.VAR_KEYWORD]
    assert [(p.name, p.kind, p.default) for p in ours.values()] == named
    general = {*inspect.signature(ao.compat.keras.SGD).parameters} - {"learning_rate", "momentum", "nesterov"}
    assert {*METHODS[name].options} | general == {*ours}


@pytest.mark.parametrize(("name", "k"), draws(dict.fromkeys(METHODS, DRAWS), 0.25))
def test_updates_of_float64(name: str, k: int, keras: Any, need: Callable[[str], Library]) -> None:
    """Beside Keras, and over to us in the middle, and over to Keras: one trajectory, to round-off."""
    row, rng = METHODS[name], _rng(name, k)
    shapes = SHAPES[1 if name in MATRIX else k % len(SHAPES)]
    with need("jax-x64").context():
        keras.config.set_floatx("float64")
        options = _options(row, k, rng)
        params = _drawn(rng, shapes, "float64")
        given = _scheduled(options, keras.optimizers.schedules)
        theirs = Keras(lambda: getattr(keras.optimizers, name)(**given), params)
        made = partial(getattr(ao.compat.keras, name), **_scheduled(options, ao.compat.keras.schedules))
        optimizer, ours = made(), {key: a.copy() for key, a in params.items()}
        first, second = ([_drawn(rng, shapes, "float64") for _ in range(HALF_WAY)] for _ in range(2))
        theirs.steps(first)
        for grads in first:
            optimizer.update(ours, grads)
        taken, went = made(), theirs.params
        ao.compat.keras.from_keras(theirs.optimizer, taken, went)
        back = theirs.elsewhere(ours)
        ao.compat.keras.to_keras(optimizer, back.optimizer)
        theirs.steps(second)
        back.steps(second)
        for grads in second:
            optimizer.update(ours, grads)
            taken.update(went, grads)
        assert _apart(ours, theirs.params) <= row.bound, options
        assert _apart(went, theirs.params) <= row.bound, options
        assert _apart(back.params, theirs.params) <= row.bound, options
        if options.get("use_ema"):
            averages = [v for v in theirs.optimizer.variables if v.name.endswith("_average")]
            expected = {key: np.array(v.value) for key, v in zip(shapes, averages, strict=True)}
            assert _apart(optimizer.eval_params(ours), expected) <= row.bound


@pytest.mark.covering(1)  # what each option does is compared in float64
@pytest.mark.parametrize(("name", "k"), draws(dict.fromkeys(METHODS, 2), 0.5))
def test_float32(name: str, k: int, keras: Any) -> None:
    """Some ulps of the largest parameter a step, on average: XLA adds and multiplies in one rounding, NumPy in two.

    Ours has Keras's own schedules here, which compute with JAX each time that they are asked.
    """
    row, rng, steps = METHODS[name], _rng(name, k), 50
    shapes = SHAPES[1 if name in MATRIX else k % len(SHAPES)]
    keras.config.set_floatx("float32")
    options = _scheduled(_options(row, k, rng), keras.optimizers.schedules)
    params = _drawn(rng, shapes, "float32")
    theirs = Keras(lambda: getattr(keras.optimizers, name)(**options), params)
    optimizer, ours = getattr(ao.compat.keras, name)(**options), {key: a.copy() for key, a in params.items()}
    grads = [_drawn(rng, shapes, "float32") for _ in range(steps)]
    theirs.steps(grads)
    for each in grads:
        optimizer.update(ours, each)
    assert _apart(ours, theirs.params) <= row.ulps * steps * 2**-23, options


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "two clips": (lambda k: k.Adam(clipnorm=1.0, clipvalue=1.0), "clipnorm and clipvalue are given"),
    "average of accumulation": (lambda k: k.Adam(use_ema=True, gradient_accumulation_steps=2), "use_ema is True"),
    "accumulation of one": (lambda k: k.SGD(gradient_accumulation_steps=1), "gradient_accumulation_steps is 1"),
    "no decay": (lambda k: k.AdamW(weight_decay=None), "weight_decay is None"),
    "momentum": (lambda k: k.SGD(momentum=1.0), "momentum is 1.0"),
    "name": (lambda k: k.SGD(name=3), "name is 3"),
    "average": (lambda k: k.SGD(use_ema=True, ema_momentum=1.5), "decay is 1.5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name: str) -> None:
    """Options that can't be met are refused by name."""
    make, says = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=says):
        make(ao.compat.keras)


def test_muon_without_matrices(keras: Any, need: Callable[[str], Library]) -> None:
    """A tree of vectors is Adam's alone: in Keras and here, in float64."""
    params, rng = {"a": np.ones(3), "b": np.ones(2)}, np.random.default_rng(0)
    with need("jax-x64").context():
        keras.config.set_floatx("float64")
        theirs = Keras(lambda: keras.optimizers.Muon(0.1), params)
        optimizer, ours = ao.compat.keras.Muon(0.1), {key: a.copy() for key, a in params.items()}
        grads = [_drawn(rng, {"a": (3,), "b": (2,)}, "float64") for _ in range(3)]
        theirs.steps(grads)
        for g in grads:
            optimizer.update(ours, g)
        assert _apart(ours, theirs.params) <= METHODS["Adam"].bound


def test_a_function_without_arguments_is_asked_at_each_step(keras: Any) -> None:
    """A learning rate without arguments is asked at each step, as Keras asks it."""
    keras.config.set_floatx("float32")
    now = [0.5]
    variable, p = keras.Variable(np.ones(2, np.float32)), np.ones(2, np.float32)
    theirs, ours = keras.optimizers.SGD(lambda: now[0]), ao.compat.keras.SGD(lambda: now[0])
    for lr in (0.5, 0.25, 1.0):
        now[0] = lr
        theirs.apply([np.ones(2, np.float32)], [variable])
        ours.update(p, np.ones(2, np.float32))
    assert np.array_equal(p, np.array(variable.value))


def test_all_or_nothing(keras: Any) -> None:
    """Variables of other methods, options, parameters and shapes: named, and both go on as they were."""
    keras.config.set_floatx("float32")
    params = {"w": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}

    def built(make: Callable[[Any], Any], shapes: dict[str, Any]) -> Any:
        made = make(keras.optimizers)
        made.build([keras.Variable(a, name=k) for k, a in shapes.items()])
        return made

    optimizer = ao.compat.keras.Adam()
    optimizer.update(params, params)
    before = str(optimizer.state_dict())
    bad: dict[str, Any] = {
        "no variable 'w_velocity'": built(lambda k: k.SGD(momentum=0.5), params),
        "the variable 'adam.*w_velocity_hat'": built(lambda k: k.Adam(amsgrad=True), params),
        "the variable 'adam.*w_average'": built(lambda k: k.Adam(use_ema=True), params),
        "the variable 'adam.*w_gradient_accumulator'": built(lambda k: k.Adam(gradient_accumulation_steps=3), params),
        "wanted `names`": built(lambda k: k.Adam(), {**params, "c": params["b"]}),
        r"w_momentum has shape \(3, 2\)": built(lambda k: k.Adam(), {**params, "w": params["w"].T}),
        "is not built": keras.optimizers.Adam(),
        "wanted its inner_optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
    }
    for says, theirs in bad.items():
        kept = [np.array(v.value) for v in theirs.variables]
        with pytest.raises(ValueError, match=says):
            ao.compat.keras.from_keras(theirs, optimizer, params)
        with pytest.raises(ValueError, match=says):
            ao.compat.keras.to_keras(optimizer, theirs)
        assert all(np.array_equal(a, np.array(v.value)) for a, v in zip(kept, theirs.variables, strict=True))
    assert str(optimizer.state_dict()) == before
    with pytest.raises(ValueError, match=r"Lookahead.* has no place among the variables of Keras"):
        ao.compat.keras.from_keras(built(lambda k: k.Adam(), params), ao.chain(ao.Adam(), ao.Lookahead()), params)


def test_names_lists_and_a_model(keras: Any) -> None:
    """Parameters in a list, in a container of one's own, and by the paths of a model's variables."""
    keras.config.set_floatx("float32")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    model.compile(optimizer=keras.optimizers.Adafactor(0.1), loss="mse")
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(16, 4)), rng.normal(size=(16, 2)), batch_size=4, verbose=0)
    variables = model.trainable_variables
    arrays = [np.array(v.value) for v in variables]
    by_path = {v.path: a.copy() for v, a in zip(variables, arrays, strict=True)}
    own = {"one": {"W": arrays[0].copy(), "b": arrays[1].copy()}, "two": {"W": arrays[2].copy(), "b": arrays[3].copy()}}
    listed = [a.copy() for a in arrays]
    ways: list[tuple[Any, Any]] = [(by_path, None), (listed, None), (own, ["one.W", "one.b", "two.W", "two.b"])]
    results = []
    for params, names in ways:
        optimizer = ao.compat.keras.Adafactor(0.1)
        ao.compat.keras.from_keras(model.optimizer, optimizer, params, names)
        assert optimizer.state is not None
        assert optimizer.state.step == 4
        leaves = params if isinstance(params, list) else [*params.values()]
        flat = [a for leaf in leaves for a in (leaf.values() if isinstance(leaf, dict) else [leaf])]
        grads = [np.ones_like(a) for a in flat]
        tree: Any = grads if isinstance(params, list) else dict(zip(by_path, grads, strict=True))
        if params is own:
            tree = {"one": {"W": grads[0], "b": grads[1]}, "two": {"W": grads[2], "b": grads[3]}}
        optimizer.update(params, tree)
        results.append(flat)
    model.optimizer.apply([np.ones_like(a) for a in arrays], variables)
    for result in results:
        for a, v in zip(result, variables, strict=True):
            np.testing.assert_allclose(a, np.array(v.value), rtol=1e-5, atol=1e-6)


def test_accumulations_of_other_lengths(keras: Any) -> None:
    """A state is refused where a step takes another number of updates."""
    keras.config.set_floatx("float32")
    theirs = keras.optimizers.SGD(gradient_accumulation_steps=3)
    theirs.build([keras.Variable(np.ones(2, np.float32), name="w")])
    optimizer = ao.compat.keras.SGD(gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"a step every 3 updates, and chain.* every 2"):
        ao.compat.keras.from_keras(theirs, optimizer, {"w": np.ones(2, np.float32)})
