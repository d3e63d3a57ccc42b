"""When solvers stop, and what they say: against where SciPy's stop, and case by case."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from anyoptim.solvers import Condition, Progress, Stop

optimize = pytest.importorskip("scipy.optimize", reason="SciPy's solvers are the peers")

AT = Progress(
    value=2.0,
    previous=3.0,
    gradient_max=0.5,
    gradient_norm=0.7,
    step_norm=0.75,
    params_norm=1.0,
    step_length=1.0,
    steps=10,
    evaluations=12,
    seconds=1.5,
    values=[9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.5, 3.25, 3.125, 3.0, 2.0],
)
"""After ten steps."""


def _trace(method: str, **options: Any) -> list[Progress]:
    """What SciPy's solver goes through on Rosenbrock's function, if it never stops of itself."""
    x, found = np.array([-1.2, 1.0, -1.2, 1.0]), list[Progress]()

    def note(y: Any, previous: float = math.nan) -> None:
        step = float(np.linalg.norm(y - x)) if found else math.nan
        value, g = float(optimize.rosen(y)), optimize.rosen_der(y)
        found.append(
            Progress(
                value, previous, abs(g).max(), step_norm=step, params_norm=float(np.linalg.norm(x)), steps=len(found)
            )
        )

    note(x)

    def each(y: Any) -> None:
        note(y, found[-1].value)
        x[:] = y

    optimize.minimize(optimize.rosen, x.copy(), jac=optimize.rosen_der, method=method, callback=each, options=options)
    return found


def _stop(name: str, tolerance: float) -> Stop:
    given: dict[str, Any] = {name: tolerance}
    return Stop(**given)


def _first(stop: Condition, trace: list[Progress]) -> int:
    return next(i for i, progress in enumerate(trace) if stop.reason(progress))


@pytest.mark.parametrize(
    ("method", "never", "scipys", "name"),
    [
        ("L-BFGS-B", {"gtol": 0.0, "ftol": 0.0}, "gtol", "gtol"),
        ("L-BFGS-B", {"gtol": 0.0, "ftol": 0.0}, "ftol", "ftol"),
        ("BFGS", {"gtol": 0.0, "xrtol": 0.0}, "gtol", "gtol"),
        ("BFGS", {"gtol": 0.0, "xrtol": 0.0}, "xrtol", "xtol"),
    ],
)
def test_it_stops_where_scipy_does(method: str, never: dict[str, float], scipys: str, name: str) -> None:
    """After as many steps, for tolerances of all sizes."""
    trace = _trace(method, **never)
    counts = set()
    for tolerance in (1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        options = never | {scipys: tolerance}
        x = np.array([-1.2, 1.0, -1.2, 1.0])
        peer = optimize.minimize(optimize.rosen, x, jac=optimize.rosen_der, method=method, options=options)
        counts.add(peer.nit)
        assert _first(_stop(name, tolerance), trace) == peer.nit
    assert len(counts) >= 5


_FTOL = "the last step changed the value by 0.333 of it, at most ftol = 0.333333"
_PLATEAU = "the last {} lowered the value by no more than {} of it"


@pytest.mark.parametrize(
    ("given", "others", "message", "converged"),
    [
        ({"gtol": 0.5}, {"gtol": 0.499}, "the largest element of the gradient, 0.5, is at most gtol = 0.5", True),
        (
            {"ftol": 1 / 3},
            {"ftol": 0.333},
            "the last step changed the value by 0.333 of it, at most ftol = 0.333333",
            True,
        ),
        ({"xtol": 0.5}, {"xtol": 0.499}, "the last step was 0.5 of the parameters, at most xtol = 0.5", True),
        ({"value": 2.0}, {"value": 1.999}, "the value, 2, is at most 2, as was wanted", True),
        (
            {"plateau": (0.5, 1)},
            {"plateau": (0.49, 1)},
            "the last step lowered the value by no more than 0.5 of it",
            True,
        ),
        (
            {"plateau": (1, 3)},
            {"plateau": (0.62, 3)},
            "the last 3 steps lowered the value by no more than 1 of it",
            True,
        ),
        ({"steps": 10}, {"steps": 11}, "the limit steps = 10 is reached", False),
        ({"evaluations": 11}, {"evaluations": 13}, "the limit evaluations = 11 is reached, with 12", False),
        ({"seconds": 1.5}, {"seconds": math.inf}, "the limit seconds = 1.5 is reached, with 1.5", False),
        ({"seconds": 1.25}, {"seconds": 1.6}, "the limit seconds = 1.25 is reached, with 1.5", False),
    ],
)
def test_each_criterion(given: dict[str, Any], others: dict[str, Any], message: str, converged: bool) -> None:
    """It holds at its limit and not before, says so with numbers, and whether that is convergence."""
    assert Stop(**given).reason(AT) == (message, converged)
    assert Stop(**others).reason(AT) is None


def test_convergence_is_said_first() -> None:
    """Where a limit is reached by the same step, also in combinations."""
    at_limit, at_end = Stop(steps=10), Stop(gtol=0.5)
    for stop in (Stop(steps=10, gtol=0.5), at_limit | at_end, at_end | at_limit):
        assert stop.reason(AT) == at_end.reason(AT)


def test_combinations() -> None:
    """Either holds where one does; both hold where both do, and mean convergence where one does."""
    yes, no, never = Stop(gtol=1), Stop(steps=3), Stop(value=-1)
    assert (yes | never).reason(AT) == (never | yes).reason(AT) == yes.reason(AT)
    assert (never | Stop(ftol=0)).reason(AT) is None
    assert (yes & never).reason(AT) is (never & yes).reason(AT) is None
    gradient, limit = (stop.reason(AT) for stop in (yes, no))
    assert gradient
    assert limit
    assert (yes & no).reason(AT) == (f"{gradient[0]}, and {limit[0]}", True)
    assert (no & no).reason(AT) == (f"{limit[0]}, and {limit[0]}", False)
    assert repr(yes | no & never) == "Stop(gtol=1.0) | Stop(steps=3) & Stop(value=-1.0)"
    assert repr((yes | no) & never) == "(Stop(gtol=1.0) | Stop(steps=3)) & Stop(value=-1.0)"
    assert repr(never & (yes | no)) == "Stop(value=-1.0) & (Stop(gtol=1.0) | Stop(steps=3))"
    for stop in (yes | no & never, (yes | no) & never):
        assert pickle.loads(pickle.dumps(stop)) == stop  # noqa: S301 - our own
    with pytest.raises(TypeError, match="unsupported operand"):
        yes | 3  # type: ignore[operator]


def test_before_the_first_step() -> None:
    """What compares with the step before holds never; a gradient of 0 and a limit of 0 steps do."""
    start = Progress(value=0.0, gradient_max=0.0, gradient_norm=0.0, params_norm=0.0, values=[0.0], evaluations=1)
    for never in (Stop(ftol=1), Stop(xtol=1), Stop(plateau=(1, 1)), Stop(steps=1), Stop(seconds=1)):
        assert never.reason(start) is None
    for stop in (Stop(gtol=0), Stop(value=0), Stop(steps=0), Stop(evaluations=1), Stop(seconds=0)):
        assert stop.reason(start)
    assert Stop(xtol=0).reason(start._replace(steps=1, step_norm=0.0))
    assert Stop().reason(start) == Stop(gtol=1e-5).reason(start)


def test_nothing_holds_of_nan() -> None:
    """A value or a gradient that is NaN is no convergence."""
    nan = math.nan
    lost = Progress(nan, nan, nan, nan, nan, nan, nan, steps=5, evaluations=6, seconds=1.0, values=[nan] * 6)
    assert Stop(gtol=1, ftol=1, xtol=1, value=1).reason(lost) is None
    assert Stop(gtol=1, steps=5).reason(lost) == ("the limit steps = 5 is reached", False)


def test_a_rise_is_no_convergence() -> None:
    """A value that rises, as with first-order methods, is as far from the one before as one that falls."""
    assert Stop(ftol=0.1).reason(AT._replace(value=4.0)) is None
    assert Stop(ftol=0.25).reason(AT._replace(value=4.0))


def test_a_plateau_of_noise() -> None:
    """Noise around a value that falls is none; around one that does not, it is, once the window has filled."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=200)

    def stops(values: Any) -> int | None:
        stop = Stop(plateau=(1e-3, 20))
        ends = (
            n for n in range(1, len(values) + 1) if stop.reason(AT._replace(value=values[n - 1], values=values[:n]))
        )
        return next(ends, None)

    falling = np.exp(-np.arange(200) / 50)
    assert stops((falling * (1 + 0.05 * noise)).tolist()) is None
    assert stops([1.0] * 200) == 21
    end = stops((np.maximum(falling, falling[100]) * (1 + 1e-5 * noise)).tolist())
    assert end is not None
    assert 115 < end <= 141


def test_the_default() -> None:
    """No argument at all is SciPy's defaults for L-BFGS-B; any argument stands alone."""
    assert Stop() == Stop(gtol=1e-5, ftol=2.2e-9, steps=15000)
    assert repr(Stop()) == "Stop(gtol=1e-05, ftol=2.2e-09, steps=15000)"
    assert Stop(seconds=60).gtol is None
    x = np.array([-1.2, 1.0, -1.2, 1.0])
    peer = optimize.minimize(optimize.rosen, x, jac=optimize.rosen_der, method="L-BFGS-B")
    assert _first(Stop(), _trace("L-BFGS-B", gtol=0.0, ftol=0.0)) == peer.nit


def test_float32_values() -> None:
    """Any ftol below 6e-8 asks for two equal values in float32, since others are farther apart."""
    for value in (1.0, 1.5, 2.0, 3e8, 2.0**60):
        below = float(np.nextafter(np.float32(value), np.float32(0)))
        assert Stop(ftol=5.9e-8).reason(AT._replace(previous=value, value=below)) is None
        assert Stop(ftol=0).reason(AT._replace(previous=below, value=below))
    assert Stop(ftol=6e-8).reason(AT._replace(previous=1.0, value=float(np.nextafter(np.float32(1), np.float32(0)))))


@pytest.mark.parametrize(
    ("stop", "share"),
    [
        (Stop(gtol=1), None),
        (Stop(steps=40), 0.25),
        (Stop(steps=40, evaluations=24, seconds=15), 0.5),
        (Stop(steps=0), 1.0),
        (Stop(seconds=1), 1.0),
        (Stop(steps=40) | Stop(gtol=1), 0.25),
        (Stop(steps=40) | Stop(evaluations=24), 0.5),
        (Stop(steps=40) & Stop(evaluations=24), 0.25),
        (Stop(steps=40) & Stop(gtol=1), None),
    ],
)
def test_the_share_that_is_spent(stop: Condition, share: float | None) -> None:
    """Of the limit that is nearest, for a progress bar."""
    assert stop.share(AT) == share


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gtol": -1}, r"gtol is -1.0; wanted finite and at least 0"),
        ({"ftol": math.inf}, r"ftol is inf; wanted finite and at least 0"),
        ({"xtol": "small"}, r"xtol is 'small'; wanted a real number, finite and at least 0"),
        ({"value": math.nan}, r"value is nan; wanted a number and not NaN"),
        ({"steps": -1}, r"steps is -1; wanted at least 0"),
        ({"steps": 1.5}, r"steps is 1.5; wanted"),
        ({"evaluations": 0}, r"evaluations is 0; wanted at least 1"),
        ({"seconds": -1}, r"seconds is -1.0; wanted at least 0"),
        ({"plateau": 5}, r"plateau is 5; wanted a number and a count of steps, such as \(1e-4, 20\)"),
        ({"plateau": (1e-4, 0)}, r"plateau\[1\] is 0; wanted at least 1"),
        ({"plateau": (-1, 5)}, r"plateau\[0\] is -1.0; wanted finite and at least 0"),
        ({"tol": 1}, r"Stop was given tol; wanted gtol, ftol, xtol, value, plateau, steps, evaluations and seconds"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Stop(**given)


def test_it_can_not_be_changed() -> None:
    """A stop is a value; two with the same arguments are one key of a dict."""
    stop = Stop(gtol=1, plateau=(1e-4, 3))
    assert {stop: 1}[Stop(plateau=[1e-4, 3], gtol=1.0)] == 1  # type: ignore[arg-type]
    assert stop != Stop(gtol=1)
    with pytest.raises(AttributeError, match="wanted a new Stop"):
        stop.gtol = 2  # type: ignore[misc]


def test_time_of_a_plateau() -> None:
    """It looks at as many values as its window has, however many there are."""

    class Counted(list[float]):
        read = 0

        def __getitem__(self, key: Any) -> Any:
            found = super().__getitem__(key)
            self.read += len(found) if isinstance(key, slice) else 1
            return found

    values = Counted(1.0 / (1 + n) for n in range(10000))
    Stop(plateau=(1e-4, 7)).reason(AT._replace(values=values))
    assert values.read <= 14
