"""Line searches, against SciPy's, against published runs, and where a function does what no function should."""

from __future__ import annotations

import copy
import math
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from anyoptim.solvers import Armijo, HagerZhang, LineSearch, MoreThuente, StrongWolfe, Trial, Trials
from tests.reference.line_searches import hager_zhang, strong_wolfe
from tests.support.lines import MORE_THUENTE, Line, barrier, quartic, random_line, run, seeded

SEARCHES: dict[str, LineSearch] = {
    s.__class__.__name__: s for s in (MoreThuente(), StrongWolfe(), HagerZhang(), Armijo())
}
every = pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)


def _holds(search: Any, line: Line, t: float) -> bool:
    """Whether what a search is for holds at t: said a second time."""
    (f0, g0), (f, g) = line(0.0), line(t)
    falls = f <= f0 + search.c1 * t * g0
    if isinstance(search, HagerZhang):
        falls = falls or (f <= f0 + 1e-6 * abs(f0) and (2 * search.c1 - 1) * g0 >= g)
        return bool(falls and g >= search.c2 * g0)
    return bool(falls and (isinstance(search, Armijo) or abs(g) <= search.c2 * abs(g0)))


def _scipys(line: Line, first: float, longest: float, c1: float, c2: float, xtol: float) -> tuple[list[float], str]:
    """What SciPy's translation of MINPACK-2 asks for, and how it says that it ended."""
    dcsrch = pytest.importorskip("scipy.optimize._dcsrch", reason="SciPy has a translation of MINPACK-2").DCSRCH
    lengths = []

    def value(t: Any) -> float:
        lengths.append(float(t))
        return line(float(t))[0]

    peer = dcsrch(value, lambda t: line(float(t))[1], c1, c2, xtol, 0.0, longest)
    *_, task = peer(first, *line(0.0), maxiter=60)
    return lengths, task.decode()


def test_more_thuente_is_minpacks_bit_for_bit() -> None:
    """Step lengths are those of SciPy's DCSRCH; but the best one is not asked for again, if it was the last."""
    random, ends = seeded(0), set()
    for _ in range(3000):
        line, first = random_line(random), 10 ** random.uniform(-4, 4)
        longest = random.choice([1e10, first * 10 ** random.uniform(0, 2)])
        c1, c2 = random.choice([(1e-3, 0.9), (1e-4, 0.1), (0.3, 0.31)])
        xtol = random.choice([0.1, 1e-5])
        theirs, end = _scipys(line, first, longest, c1, c2, xtol)
        ours = run(MoreThuente(c1, c2, xtol, evaluations=60), line, first, longest)
        ends.add(end)
        if not all(map(math.isfinite, sum(map(line, theirs), ()))):
            continue  # beyond a wall SciPy's ends
        if end.startswith("WARNING: XTOL"):
            # Both fall back on the best: MINPACK-2 always asks for it again, and for 0 if there is none.
            assert ours.lengths in (theirs[:-1], theirs)
            assert ours.taken is (theirs[-1] > 0)
        else:
            assert ours.lengths == theirs
            assert ours.taken
    assert ends >= {"CONVERGENCE", "WARNING: XTOL TEST SATISFIED", "WARNING: STP = STPMAX"}


@pytest.mark.parametrize("row", range(6))
def test_more_thuente_takes_the_papers_evaluations(row: int) -> None:
    """Tables I to VI: as many, and to the same point."""
    line, c1, c2, published = MORE_THUENTE[row]
    search = MoreThuente(c1, c2, xtol=1e-12)
    found = [run(search, line, first) for first in (1e-3, 1e-1, 1e1, 1e3)]
    assert [(len(lengths), float(f"{lengths[-1]:.2g}")) for lengths, _ in found] == published


PAPERS: dict[Any, Any] = {StrongWolfe: strong_wolfe, HagerZhang: hager_zhang}


@pytest.mark.parametrize("kind", PAPERS)
def test_it_asks_what_the_paper_asks(kind: Any) -> None:
    """The algorithms as their authors wrote them, on functions of all kinds: the same step lengths, in their order.

    They are compared as long as they depend on no rounding: as long as those of a function that is rounded otherwise
    are the same.
    """
    random, compared = seeded(4), 0
    for _ in range(1000):
        line, first = random_line(random), 10 ** random.uniform(-4, 4)
        constants = random.choice([(1e-4, 0.9), (0.1, 0.9), (1e-3, 0.1), (0.3, 0.31)])

        def otherwise(t: float, line: Line = line) -> tuple[float, float]:
            value, slope = line(t)
            return value * (1 + 1e-13 * math.sin(1e6 * t)), slope * (1 + 1e-13 * math.cos(1e6 * t))

        wanted, others = (PAPERS[kind](of, first, 20, *constants) for of in (line, otherwise))
        if all(math.isfinite(x) for t in wanted for x in line(t)):
            pairs = enumerate(zip(wanted, others, strict=False))
            alike = next((n for n, (a, b) in pairs if abs(a - b) > 1e-9 * a), min(len(wanted), len(others)))
            lengths, _ = run(kind(*constants), line, first)
            assert lengths[:alike] == pytest.approx(wanted[:alike], rel=1e-6)
            assert alike < len(wanted) or len(lengths) <= len(wanted) + 1  # which falls back on the best
            compared += alike > 3
    assert compared > 300


def test_constants_are_those_of_the_sources() -> None:
    """L-BFGS-B's, the book's, and CG_DESCENT's."""
    assert MoreThuente() == MoreThuente(c1=1e-3, c2=0.9, xtol=0.1)
    assert StrongWolfe() == StrongWolfe(c1=1e-4, c2=0.9)
    assert HagerZhang() == HagerZhang(c1=0.1, c2=0.9, epsilon=1e-6, gamma=0.66, theta=0.5, rho=5.0)
    assert Armijo() == Armijo(c1=1e-4, shrink=0.5)
    assert {search.evaluations for search in SEARCHES.values()} == {20}


rounded = pytest.mark.parametrize("rounding", [0.0, 2.0**-50])


@every
@rounded
def test_it_finds_what_it_is_for(search: Any, rounding: float) -> None:
    """On convex functions always, from first steps that are much too short or much too long."""
    random = seeded(1)
    for _ in range(300):
        line, first = quartic(random), 10 ** random.uniform(-3, 3)
        lengths, taken = run(search, line, first, rounding=rounding)
        assert taken
        assert _holds(search, line, lengths[-1])
        assert not any(_holds(search, line, t) for t in lengths[:-1])


@every
@rounded
def test_what_it_takes_is_lower(search: Any, rounding: float) -> None:
    """On functions of all kinds it ends in time; what it takes does what it is for, or is the best that it has seen."""
    random, fallen_back = seeded(2), 0
    for _ in range(1000):
        line = random_line(random)
        lengths, taken = run(search, line, 10 ** random.uniform(-4, 4), rounding=rounding)
        assert len(lengths) <= search.evaluations + 1
        values = [line(t)[0] for t in lengths]
        if taken and not _holds(search, line, lengths[-1]):
            assert values[-1] == min(values) < line(0.0)[0]
            fallen_back += 1
        elif not taken:
            assert not min(values) < line(0.0)[0]
    assert fallen_back < 350  # many of these functions fall for ever


@every
@rounded
@pytest.mark.parametrize("kind", [math.nan, math.inf, -math.inf])
def test_a_wall(search: Any, kind: float, rounding: float) -> None:
    """Where a function is NaN or infinite beyond a wall, a step before it is found, from wherever it begins."""
    for wall in (1e-100, 0.3, 1e100):
        for first in (1e-3, 0.9, 1.0, 1.1, 3.0, 1e3, 1e9):
            lengths, taken = run(search, barrier(wall, kind), first * wall, rounding=rounding)
            assert taken
            assert 0 < lengths[-1] < wall
            assert len(lengths) <= 21


@every
def test_a_wall_behind_the_minimum(search: Any) -> None:
    """A logarithmic barrier, which rises to the wall: what is found does what the search is for."""
    for first in (1e-3, 0.5, 1.0, 1e3):

        def line(t: float) -> tuple[float, float]:
            return (-3 * t - math.log(1 - t), -3 + 1 / (1 - t)) if t < 1 else (math.nan, math.nan)

        lengths, taken = run(search, line, first)
        assert taken
        assert _holds(search, line, lengths[-1])


def test_no_step_beyond_a_wall_twice() -> None:
    """What is known to be a wall is not run into again, however far the search would go."""
    for search in (MoreThuente(), StrongWolfe(), HagerZhang()):
        lengths, _ = run(search, barrier(1.0, math.nan), 0.01)
        beyond = [t for t in lengths if t >= 1]
        assert beyond
        assert all(later < t for t, later in pairwise(beyond))


WRONG: dict[str, Line] = {
    "of the other sign": lambda t: ((t + 1) ** 2, -2 * (t + 1)),
    "where it is flat": lambda t: (1.0, -1.0),
    "flat": lambda t: (1.0, -1.0 if t == 0 else 0.0),
    "NaN": lambda t: (1 + t, -1.0 if t == 0 else math.nan),
    "much too large": lambda t: (1 + t, -1e300),
    "much too small": lambda t: (1 + t, -1e-300),
    "of noise": lambda t: (1 + abs(math.sin(1e9 * t)), -1 + 2 * math.sin(1e7 * t)),
    "nowhere finite": lambda t: (1.0, -1.0) if t == 0 else (math.nan, math.nan),
}


@every
@rounded
@pytest.mark.parametrize("line", WRONG.values(), ids=WRONG)
def test_wrong_slopes(search: Any, rounding: float, line: Line) -> None:
    """It ends after the evaluations that it may take, and takes nothing, for nothing is lower, but for rounding."""
    for first in (1e-8, 1.0, 1e8):
        lengths, taken = run(search, line, first, rounding=rounding)
        assert len(lengths) <= 20
        assert not taken or rounding or _holds(search, line, lengths[-1])
        assert not taken or line(lengths[-1])[0] <= 1 + 1e-6


@every
@pytest.mark.parametrize(
    ("value", "slope"), [(1.0, 0.0), (1.0, 2.0), (1.0, math.nan), (math.nan, -1.0), (math.inf, -1.0), (1.0, -math.inf)]
)
def test_no_line_to_search(search: Any, value: float, slope: float) -> None:
    """Where the value does not fall, or there is none, nothing is asked."""
    assert run(search, lambda t: (value, slope), 1.0) == ([], False)


@every
@pytest.mark.parametrize("first", [0.0, -1.0, math.inf, math.nan])
def test_no_first_step(search: Any, first: float) -> None:
    """Nor where the first step length is none."""
    assert run(search, lambda t: ((1 - t) ** 2, 2 * t - 2), first) == ([], False)


@every
@rounded
@pytest.mark.parametrize("exponents", [(0, 300), (0, -300), (400, 0), (-400, 0), (400, 300), (-400, -300)])
def test_scales_do_not_matter(search: Any, exponents: tuple[int, int], rounding: float) -> None:
    """Values and step lengths times powers of 2 change nothing but themselves, bit for bit."""
    high, far = (2.0**n for n in exponents)
    random = seeded(3)
    for _ in range(100):
        line, first = random_line(random), 10 ** random.uniform(-2, 2)

        def scaled(t: float, line: Line = line) -> tuple[float, float]:
            value, slope = line(t / far)
            return value * high, slope * high / far

        lengths, taken = run(search, line, first, rounding=rounding)
        assert run(search, scaled, first * far, rounding=rounding) == ([t * far for t in lengths], taken)


@every
def test_the_longest_step(search: Any) -> None:
    """No step is longer, and where the value falls all the way it is taken."""
    lengths, taken = run(search, lambda t: (-t, -1.0), 0.01, longest=2.5)
    assert max(lengths) <= 2.5
    assert taken
    if not isinstance(search, Armijo):  # which takes the first that does
        assert lengths[-1] == 2.5
    assert run(search, lambda t: (-t, -1.0), 10.0, longest=2.5).lengths == [2.5]


def test_how_a_wall_is_met() -> None:
    """The step is cut to half of its way, and then to a tenth each time; later ones halve the way to the wall."""

    class Farther(LineSearch):
        def accepts(self, start: Trial, trial: Trial) -> bool:
            return False

        def search(self, trials: Trials, first: float) -> Any:
            inner = 0.0
            while True:
                inner = (yield from trials.at(5 * first if inner else first, inner)).t

    lengths, taken = run(Farther(), barrier(2.9, math.nan), 1.0)
    # 1 is well; 5 is beyond, 3 is halfway there, 1.2 a tenth of that. Then up to 3, as long as a tenth of it is left.
    assert lengths == pytest.approx([1, 5, 3, 1.2, 2.1, 2.55, 2.775], rel=1e-15)
    assert taken
    lengths, _ = run(Armijo(), barrier(1.0, math.inf), 1000.0)
    assert lengths == pytest.approx([1000, 500, 50, 5, 0.5], rel=1e-15)


@pytest.mark.parametrize("search", [MoreThuente(0.25, 0.5), StrongWolfe(0.25, 0.5), Armijo(0.25)])
def test_the_limits_of_what_is_accepted(search: Any) -> None:
    """Equality is enough, in each of the conditions."""
    start, by_value = Trial(0.0, 0.0, -1.0), isinstance(search, Armijo)
    assert search.accepts(start, Trial(2.0, -0.5, -0.5))
    assert not search.accepts(start, Trial(2.0, -0.499, -0.5))
    assert search.accepts(start, Trial(2.0, -0.5, 0.5))
    for slope in (-0.501, 0.501):
        assert search.accepts(start, Trial(2.0, -0.5, slope)) is by_value


def test_the_limits_of_the_approximate_conditions() -> None:
    """A value that has risen by epsilon*|f(0)| counts as one that has not, if the slope tells of a fall."""
    search, start = HagerZhang(0.25, 0.5, epsilon=2.0**-10), Trial(0.0, -1024.0, -1.0)
    assert search.accepts(start, Trial(2.0, -1023.0, 0.5))
    assert not search.accepts(start, Trial(2.0, -1022.9, 0.5))
    assert not search.accepts(start, Trial(2.0, -1023.0, 0.501))
    assert not search.accepts(start, Trial(2.0, -1023.0, -0.501))
    assert search.accepts(start, Trial(2.0, -1024.5, 9.0))
    assert not search.accepts(start, Trial(2.0, -1024.4, 9.0))
    assert search.accepts(start, Trial(2.0, -1024.5, -0.5))


def test_armijo_is_the_geometric_row() -> None:
    """It asks for first * shrink**k, looks at no slope, and takes the first that falls enough."""
    lengths, taken = run(Armijo(c1=0.5, shrink=0.25), lambda t: (t * t - t, math.nan if t else -1.0), 8.0)
    assert lengths == [8.0, 2.0, 0.5]  # t*t - t <= -t/2 from 1/2 down
    assert taken
    assert not Armijo.needs_slope


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_below_the_rounding_of_values(dtype: Any) -> None:
    """Steepest descent on a cosh that is off by an ulp or two. By values the minimum is found to the root of that.

    By slopes it is found to their precision: Hager and Zhang's search goes by them, and all that are told of rounding.
    """
    eps = float(np.finfo(dtype).eps)

    def reached(search: Any, rounding: float = 0.0) -> float:
        x = np.array([0.5, -0.25])
        for _ in range(60):
            g = np.sinh(x) * [1.0, 0.5]

            def line(t: float, x: Any = x, g: Any = g) -> tuple[float, float]:
                y = x - t * g
                noise = 1 + 1.5 * eps * math.sin(1e9 * t)
                return float(dtype(np.cosh(y) @ [1.0, 0.5] * noise)), -float(np.sinh(y) * [1.0, 0.5] @ g)

            lengths, taken = run(search, line, 1.0, rounding=rounding)
            if not taken:
                break
            x = x - lengths[-1] * g
        return float(np.linalg.norm(x))

    assert reached(HagerZhang(c2=0.1)) < 1e-12
    for search in (MoreThuente(c2=0.1), StrongWolfe(c2=0.1), HagerZhang(c2=0.1)):
        assert reached(search, 4 * eps) < 1e-12
        assert isinstance(search, HagerZhang) or reached(search) > 0.01 * math.sqrt(eps)


def test_rounding_excuses_no_slope() -> None:
    """A value that is higher by what rounding may be is taken if its slope is small, and no higher one."""
    for search in (MoreThuente(), StrongWolfe()):
        for value, slope, taken in ((1024.49, 0.5, True), (1024.49, -0.95, False), (1024.51, 0.5, False)):

            def line(t: float, value: float = value, slope: float = slope) -> tuple[float, float]:
                return (1024.0, -1.0) if t == 0 else (value, slope)

            lengths, found = run(search, line, 2.0**-20, rounding=2.0**-11)
            assert (lengths[0] == lengths[-1] and found) is taken


@every
def test_they_are_values(search: Any) -> None:
    """Equal if their arguments are, hashable, not to be changed; repr, pickle and copy give them back."""
    again = eval(repr(search), {type(search).__name__: type(search)})  # noqa: S307 - our own
    travelled = pickle.loads(pickle.dumps(search))  # noqa: S301 - our own
    for other in (type(search)(), again, travelled, copy.deepcopy(search)):
        assert other == search
        assert hash(other) == hash(search)
        assert repr(other) == repr(search)
    assert type(search)(c1=0.05) != search
    with pytest.raises(AttributeError, match=r"can't be changed; wanted a new"):
        search.c1 = 0.5
    assert not hasattr(search, "c3")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MoreThuente(c1=0.0), r"c1 is 0.0; wanted above 0 and below 1"),
        (lambda: StrongWolfe(c2=1), r"c2 is 1.0; wanted above 0 and below 1"),
        (lambda: StrongWolfe(0.5, 0.1), r"c1 is 0.5 and c2 is 0.1; wanted c1 at most c2"),
        (lambda: MoreThuente(0.5, 0.1), r"c1 is 0.5 and c2 is 0.1; wanted c1 at most c2"),
        (lambda: HagerZhang(0.3, 0.1), r"c1 is 0.3 and c2 is 0.1; wanted c1 at most c2"),
        (lambda: HagerZhang(c1=0.5), r"c1 is 0.5; wanted above 0 and below 0.5"),
        (lambda: HagerZhang(rho=1), r"rho is 1.0; wanted finite and above 1"),
        (lambda: HagerZhang(epsilon=-1), r"epsilon is -1.0; wanted finite and at least 0"),
        (lambda: Armijo(shrink=2), r"shrink is 2.0; wanted above 0 and below 1"),
        (lambda: Armijo(evaluations=0), r"evaluations is 0; wanted at least 1"),
        (lambda: Armijo("much"), r"c1 is 'much'; wanted a real number"),  # type: ignore[arg-type]
        (lambda: Armijo(c2=0.9), r"Armijo was given c2; wanted c1, shrink and evaluations"),  # type: ignore[call-arg]
    ],
)
def test_what_a_constructor_refuses(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_search_of_ones_own() -> None:
    """It says what it accepts and where to look; walls, limits and the best trial are seen to."""

    class Golden(LineSearch):
        def accepts(self, start: Any, trial: Any) -> bool:
            return False

        def search(self, trials: Trials, first: float) -> Any:
            while True:
                trial = yield from trials.at(first)
                first = 0.618 * trial.t

    lengths, taken = run(
        Golden(evaluations=10), lambda t: (math.nan, 0.0) if t > 7 else ((t - 1) ** 2, 2 * t - 2), 10.0
    )
    assert lengths[:2] == [10.0, 5.0]
    assert len(lengths) == 11
    assert lengths[-1] == min(lengths, key=lambda t: (t - 1) ** 2)
    assert taken
