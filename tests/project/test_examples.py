"""The examples do what the README promises of them."""

from __future__ import annotations

import functools
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anyoptim as ao
from tests.reference import textbook
from tests.support import mpi
from tests.support.libraries import Library
from tests.support.pictures import example

pytestmark = pytest.mark.usefixtures("quickly")


def _png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) > 20_000
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_digits_reach_97_percent_with_every_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The main job with its defaults: accuracies, the epochs to 97 %, table and picture."""
    monkeypatch.chdir(tmp_path)
    accuracies = example("train_digits").main([])
    assert set(accuracies) == {"sgd", "momentum", "adagrad", "adam"}
    assert min(accuracies.values()) >= 0.97
    assert min(_png_size(tmp_path / "learning_curves.png")) > 400
    printed = capsys.readouterr().out
    for name, accuracy in zip(["SGD", "Momentum", "AdaGrad", "Adam"], accuracies.values(), strict=True):
        row = next(line for line in printed.splitlines() if line.startswith(f"│ {name} "))
        assert re.search(rf" {accuracy:.1%} │ +[1-9]\d* │ ", row)


HALF = ["--optimizer", "adam", "--epochs", "12"]
"""Of the main job, which is enough to compare with."""


@functools.cache
def _on_numpy() -> float:
    with tempfile.TemporaryDirectory() as folder:
        found = example("train_digits").main([*HALF, "--output", f"{folder}/curves.png"])
    return float(found["adam"])


def test_epochs_are_counted_to_the_first_that_is_good_enough() -> None:
    """Not to one after it; and not at all where none is."""
    module = example("train_digits")
    scores = [module.Score(1.0, accuracy) for accuracy in (0.1, 0.96, 0.97, 0.9, 0.99)]
    assert module.epochs_to_goal(scores) == 2
    assert module.epochs_to_goal(scores[:2]) is None


@pytest.mark.parametrize("name", ["torch", pytest.param("jax", marks=pytest.mark.product), "cupy"])
def test_digits_on_other_libraries(name: str, tmp_path: Path, need: Callable[[str], Library]) -> None:
    """The same network on other arrays: the same accuracy, to a few images that sit on the fence."""
    need(name)
    main = example("train_digits").main
    accuracy = main(["--library", name, *HALF, "--output", str(tmp_path / "curves.png")])["adam"]
    assert accuracy >= 0.97
    assert abs(accuracy - _on_numpy()) < 0.01


def test_constraints_leave_little(tmp_path: Path) -> None:
    """A bound nothing below 0, the proximal step zeros for nine elements of ten, and the spikes are where they were."""
    module = example("constraints")
    results = module.main(["--output", str(tmp_path / "picture.png")])
    free, bounded, sparse = (results[name] for name in module.WAYS)
    assert (free < -0.1).any()
    assert (bounded >= 0).all()
    assert (sparse >= 0).all()
    assert np.count_nonzero(sparse == 0) > 0.9 * sparse.size
    _, signal, _ = module.blurred(0)
    assert set(np.flatnonzero(sparse > 0.3)) <= {k + d for k in np.flatnonzero(signal) for d in (-1, 0, 1)}
    assert np.linalg.norm(sparse - signal) < 0.2 * np.linalg.norm(signal)
    assert min(_png_size(tmp_path / "picture.png")) > 400


def test_what_is_known_brings_object_and_probe_nearer(tmp_path: Path) -> None:
    """Both about twice as near: at least by a third; and within is what the constraints say."""
    errors = example("object_and_probe").main(["--output", str(tmp_path / "picture.png")])
    without, known = errors.values()
    assert all(known[name] < without[name] / 1.5 for name in ("object", "probe"))
    assert min(_png_size(tmp_path / "picture.png")) > 400


def test_tomography_finds_the_slice(tmp_path: Path) -> None:
    """What is known beforehand brings the image nearest, and fitting all of the noise does not."""
    errors = example("tomography").main(["--output", str(tmp_path / "picture.png")])
    sirt, cgls, fitted, smooth = errors.values()
    assert smooth < sirt < cgls < 0.2 < fitted
    assert min(_png_size(tmp_path / "picture.png")) > 400


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.product) for n in (1, 3, 4))])
def test_a_volume_in_slabs_is_that_of_one_process(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, and so its fingerprint: each rank under mpiexec has some of the slices."""
    module, options = example("volume_in_slabs"), ["--size", "12", "--steps", "8"]
    monkeypatch.setattr(module, "world", lambda: None)
    said = mpi.run(ranks, str(module.__file__), *options)
    assert said.split()[-1] == module.main(options)
    assert f"12 slices on {ranks} ranks" in said


def test_a_network_on_a_mesh_learns_what_it_learns_on_one_device(need: Callable[[str], Library]) -> None:
    """To rounding, which a hundred steps leave small; and an eighth of the weights and slots lies on each of eight."""
    need("jax")
    path, losses = str(example("mesh_of_devices").__file__), []
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    for devices, piece in ((8, "(2, 64)"), (1, "(16, 64)")):
        command = [sys.executable, path, "--devices", str(devices), "--steps", "100"]
        said = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        assert f"in {devices} pieces, each of {piece}: loss " in said
        losses.append(float(said.split()[-1]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0] < 0.1  # of 0.4 after two steps


@pytest.mark.product  # seconds
def test_solvers_find_object_and_probe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After 40 evaluations L-BFGS is lowest and nearest, as in the picture; the gradient is right."""
    module = example("phase_retrieval")
    found = module.main(["--evaluations", "40", "--output", str(tmp_path / "picture.png")])
    assert min(found.values()) == found["L-BFGS"]
    assert min(off for _, off in found.values()) == found["L-BFGS"][1] < 0.12
    assert min(_png_size(tmp_path / "picture.png")) > 400
    assert "L-BFGS: value " in capsys.readouterr().out
    experiment = module.Experiment(np.asarray, 1000, 0)
    assert ao.check_grad(experiment, {name: a + np.complex64(0.1) for name, a in experiment.start.items()}).ok


@pytest.mark.product
@pytest.mark.parametrize("name", ["torch", "jax", "cupy"])
def test_inverse_problems_on_other_libraries(name: str, tmp_path: Path, need: Callable[[str], Library]) -> None:
    """The same images as NumPy's, but for rounding: few steps, in which it does not grow."""
    need(name)
    of = [["--library", library, "--output", str(tmp_path / "picture.png")] for library in ("numpy", name)]
    numpys, theirs = (example("tomography").main(options) for options in of)
    # L-BFGS has taken a hundred steps into the noise.
    np.testing.assert_allclose([*theirs.values()], [*numpys.values()], rtol=0.05)
    numpys, theirs = (example("phase_retrieval").main([*options, "--evaluations", "8"]) for options in of)
    np.testing.assert_allclose([*theirs.values()], [*numpys.values()], rtol=0.01)


@pytest.mark.product
def test_phase_retrieval_is_down_to_the_noise(tmp_path: Path) -> None:
    """What the text of the example says: the value of L-BFGS hardly changes after 80 evaluations."""
    main = example("phase_retrieval").main
    early, late = (
        main(["--evaluations", n, "--output", str(tmp_path / "picture.png")])["L-BFGS"][0] for n in ("80", "150")
    )
    assert late < early < 1.06 * late


def test_the_hand_written_gradient_is_the_gradient() -> None:
    """Against central differences in float64, with Dropout's mask held: 1e-6 is their own error."""
    module = example("train_digits")
    rng = np.random.default_rng(17)
    params = {k: v.astype(np.float64) for k, v in module.initial_params(rng, (5, 7, 6, 3)).items()}
    x, t = rng.normal(size=(4, 5)), np.eye(3)[[0, 2, 1, 1]]

    def loss_at(changed: dict[str, Any]) -> float:
        return float(module.Network(changed, seed=3).loss(x, t, training=True))

    gradient = module.Network(params, seed=3).gradient(x, t)
    assert set(gradient) == set(params)
    _check_by_differences(params, gradient, loss_at)


def test_digits_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A recurrent network reaches 96 %, and says so."""
    accuracy = example("recurrent_digits").main([])
    assert accuracy >= 0.96
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ to test with "))
    assert f"{accuracy:.1%}" in row


def test_the_gradient_back_through_time_is_the_gradient() -> None:
    """Against central differences in float64, with all masks held: 1e-6 is their own error."""
    module = example("recurrent_digits")
    rng = np.random.default_rng(17)
    params = {k: v.astype(np.float64) for k, v in module.initial_params(rng, 4).items()}
    x, t = rng.normal(size=(3, module.LINES, module.PIXELS)), np.eye(10)[[0, 2, 1]]

    def loss_at(changed: dict[str, Any]) -> float:
        return float(module.Reader(changed, 0.4, seed=3).loss(x, t, training=True))

    gradient = module.Reader(params, 0.4, seed=3).gradient(x, t)
    assert set(gradient) == set(params)
    _check_by_differences(params, gradient, loss_at)


def _check_by_differences(params: dict[str, Any], gradient: dict[str, Any], loss_at: Callable[..., float]) -> None:
    h = 1e-6
    for key, p in params.items():
        numeric = np.zeros_like(p)
        for index in np.ndindex(*p.shape):
            shift = np.zeros_like(p)
            shift[index] = h
            numeric[index] = (loss_at({**params, key: p + shift}) - loss_at({**params, key: p - shift})) / (2 * h)
        np.testing.assert_allclose(gradient[key], numeric, atol=1e-6)


def test_uncertainty_is_where_there_are_no_points(tmp_path: Path) -> None:
    """The answers disagree twice as much in the gap, and more beyond the ends; and the picture is drawn."""
    picture = tmp_path / "uncertainty.png"
    deviations = example("uncertainty").main(["--output", str(picture)])
    assert deviations["gap"] > 1.5 * deviations["points"]
    assert deviations["beyond"] > 3 * deviations["points"]
    assert min(_png_size(picture)) > 400


def test_answers_can_be_asked_again() -> None:
    """In any order, and between steps of training, which they leave alone."""
    module = example("uncertainty")
    points, x = module.draw(3), np.linspace(-1, 1, 5)[:, None]
    asked, other = module.Network(0.2, 3), module.Network(0.2, 3)
    answers = [asked.sample(x, call).tolist() for call in (0, 1, 2)]
    assert [asked.sample(x, call).tolist() for call in (2, 0, 1)] == [answers[2], answers[0], answers[1]]
    assert answers[0] != answers[1]
    for network in (asked, other):
        module.train(network, points, 20)
        asked.sample(x, 7)
    assert all(np.array_equal(asked.params[key], other.params[key]) for key in asked.params)


def test_a_missing_library_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a traceback nor a half-made picture."""
    module = example("train_digits")
    monkeypatch.setitem(module.NAMESPACES, "numpy", "no_such_library")
    with pytest.raises(SystemExit, match=r"^Can't make arrays of numpy here: No module named 'no_such_library'$"):
        module.main([])


def test_optimizer_paths(tmp_path: Path) -> None:
    """Four paths in one picture; each is the path that the textbook's optimizer takes."""
    module = example("optimizer_paths")
    picture = tmp_path / "paths.png"
    module.main(["--output", str(picture)])
    assert min(_png_size(picture)) > 400
    for optimizer, lr, _ in module.OPTIMIZERS:
        theirs = textbook.METHODS[optimizer.__name__](lr=lr)
        params = {"x": np.array(-7.0), "y": np.array(2.0)}
        for x, y in module.path(optimizer(lr=lr)):
            assert (x, y) == (params["x"], params["y"])
            assert type(x) is type(y) is float
            theirs.update(params, {"x": params["x"] / 10, "y": 2 * params["y"]})
    assert {o.__name__ for o, *_ in module.OPTIMIZERS} == {"SGD", "Momentum", "AdaGrad", "Adam"}
    assert issubclass(module.OPTIMIZERS[0][0], ao.Optimizer)


def test_complex_paths(tmp_path: Path) -> None:
    """As one element, a parameter goes straight to the minimum, from whatever phase; as two reals it does not."""
    module = example("complex_paths")
    picture = tmp_path / "paths.png"
    module.main(["--output", str(picture)])
    assert min(_png_size(picture)) > 400
    turns = np.exp(1j * np.deg2rad([*module.DEGREES]))
    for joint in (False, True):
        paths = [np.array(module.path(module.DISTANCE * turn, joint)) / turn for turn in turns]
        assert all(abs(points[-1]) < module.DISTANCE / 4 for points in paths)
        straight = max(float(np.abs(points.imag).max()) for points in paths) < 1e-9
        assert straight is joint
