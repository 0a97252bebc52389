"""Fitting beside scikit-learn: the same objective, how low each gets, and how soon.

Both minimise the mean cross-entropy with the same penalty. scikit-learn's solver (its default one,
L-BFGS) stops by a rule of its own, so it is given smaller and smaller tolerances until it is within
`AGREED` of the least objective that anyone found; that fit is timed in turns with xent's, which has
its default tolerance. Objectives are those of the coefficients, computed anew in float64.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

import xent
from benchmarks.results import RESULTS, ROOT, replace_part, seconds_in_words, show_progress
from xent.losses.kernels.threads import number_of_threads

__all__ = [
    "CASES",
    "PAGE",
    "STORED",
    "Fitted",
    "by_case",
    "cases_named",
    "compare",
    "figure",
    "file_name",
    "gain",
    "render_page",
    "table",
]

STORED = RESULTS / "fit.jsonl"
PAGE = ROOT / "docs" / "models.md"

OWN, PEER = "xent", "scikit-learn"

ROUNDING = 1e-12
"""What of an excess is the rounding of the objectives that it is computed from."""
AGREED = 1e-8
"""How far above the least objective a fit may be, relatively, to have reached it."""
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Those that scikit-learn is given, to the first that reaches the optimum; its default is 1e-4."""


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16.0, y


def _drawn(rows: int) -> Callable[[], tuple[Any, Any]]:
    """Return a maker of features of unlike sizes, some of them alike, and labels they say."""

    def make() -> tuple[Any, Any]:
        r = np.random.default_rng(0)
        mixed = r.standard_normal((64, 64)) / 8.0 + np.eye(64)
        x = r.standard_normal((rows, 64)) @ mixed
        scores = x @ r.standard_normal((64, 10)) * 0.3 + r.gumbel(size=(rows, 10))
        return x, scores.argmax(axis=1)

    return make


CASES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "digits": _digits,
    "200 000 × 64 × 10": _drawn(200_000),
    "1 000 000 × 64 × 10": _drawn(1_000_000),
}


@dataclass(frozen=True)
class Fitted:
    """A classifier's fits of a case.

    Attributes
    ----------
    seconds, fastest
        The median and the least of its turns.
    turns
        How many those were.
    cores
        Those that the process might use.
    objective, excess
        What it arrived at, and how far that is, relatively, above the least of all.
    history
        xent's objective after each step, and the seconds that it took until there.
    """

    case: str
    name: str
    tolerance: float
    seconds: float
    fastest: float
    turns: int
    cores: int
    steps: int
    objective: float
    excess: float
    history: tuple[tuple[float, float], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored of it."""
        return {"kind": "fit", **asdict(self)}


def cases_named(names: Sequence[str] | None) -> list[str]:
    """Return the cases whose names begin so; all of them for None."""
    if names is None:
        return list(CASES)
    chosen = [case for case in CASES if any(case.startswith(name) for name in names)]
    if not chosen:
        raise ValueError(f"no case begins like {', '.join(names)}. Hint: {'; '.join(CASES)}")
    return chosen


def _objective(model: Any, x: Any, y: Any) -> float:
    w = model.coef_.astype(np.float64)
    losses = [
        float(xent.softmax_cross_entropy(part @ w.T + model.intercept_, labels, reduction="sum"))
        for part, labels in (
            (x[i : i + 65536].astype(np.float64), y[i : i + 65536]) for i in range(0, len(y), 65536)
        )
    ]
    return (sum(losses) + 0.5 * float((w**2).sum())) / len(y)


class _Race:
    """A case, and the fits of it so far: xent's as None, scikit-learn's by tolerance."""

    def __init__(self, case: str) -> None:
        from xent.models import SoftmaxRegression

        self.case, (self.x, self.y) = case, CASES[case]()
        self.models: dict[float | None, Any] = {}
        self.taken: dict[float | None, list[float]] = {}
        self.reached: dict[float | None, float] = {}
        SoftmaxRegression(tol=1e-3).fit(self.x[:5000], self.y[:5000])  # compiles and imports

    def fit(self, tol: float | None) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        from xent.models import SoftmaxRegression

        show_progress(f"{self.case}: {OWN if tol is None else f'{PEER}, tol {tol:g}'}")
        model = SoftmaxRegression() if tol is None else LogisticRegression(tol=tol, max_iter=10_000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            start = time.perf_counter()
            model.fit(self.x, self.y)
            self.taken.setdefault(tol, []).append(time.perf_counter() - start)
        self.models[tol], self.reached[tol] = model, _objective(model, self.x, self.y)

    def results(self) -> list[Fitted]:
        least = min(self.reached.values())
        return [
            Fitted(
                self.case,
                OWN if tol is None else PEER,
                model.tol,
                statistics.median(self.taken[tol]),
                min(self.taken[tol]),
                len(self.taken[tol]),
                number_of_threads(),
                int(np.max(model.n_iter_)),
                self.reached[tol],
                self.reached[tol] / least - 1.0,
                tuple((s.seconds, s.loss) for s in getattr(model, "history_", ())),
            )
            for tol, model in self.models.items()
        ]


def compare(names: Sequence[str], rounds: int = 3) -> Iterator[list[Fitted]]:
    """Fit every case with both, in turns, and yield a case's results at a time."""
    for case in names:
        race = _Race(case)
        race.fit(None)
        for tol in TOLERANCES:
            race.fit(tol)
            if race.reached[tol] <= min(race.reached.values()) * (1.0 + AGREED):
                break
        for _ in range(rounds - 1):
            race.fit(None)
            race.fit(tol)
        yield race.results()


def gain(fits: Sequence[Fitted]) -> tuple[Fitted, Fitted | None]:
    """Return xent's fit, and the one of scikit-learn that reached the optimum, if any did."""
    own = next(f for f in fits if f.name == OWN)
    there = [f for f in fits if f.name != OWN and f.excess <= AGREED]
    return own, there[-1] if there else None


def table(results: Sequence[Sequence[Fitted]]) -> str:
    """Return the fits, and how many times as fast xent reached the optimum."""
    lines = []
    for fits in results:
        lines += ["", fits[0].case]
        for f in fits:
            lines.append(
                f"  {f.name:13} tol {f.tolerance:<6g} {f.seconds:9.3f} s {f.steps:5} steps   "
                f"{f.excess:9.1e} above the least objective"
            )
        own, best = gain(fits)
        if own.excess > AGREED:
            lines.append(f"  xent did not reach the optimum to {AGREED:g}")
        elif best is not None:
            lines.append(
                f"  to {AGREED:g}, xent is {best.seconds / own.seconds:.2f} × as fast as "
                f"{PEER} (tol {best.tolerance:g})"
            )
        else:
            lines.append(f"  {PEER} did not reach the optimum to {AGREED:g}")
    return "\n".join(lines[1:]) + "\n"


def file_name(case: str) -> str:
    """Return what a case's figure is called."""
    words = case.replace(" 000", "000").replace("×", " ").replace(",", " ").split()
    return f"fit-{'-'.join(words)}.svg"


def render_page(text: str, lines: Iterable[dict[str, Any]]) -> str:
    """Return the page with its table of times, and the figures, of stored results."""
    stored = list(lines)
    rows = [
        "| rows × features × classes | scikit-learn | steps | xent | steps | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for fits in by_case(stored):
        own, best = gain(fits)
        if best is None or own.excess > AGREED:
            raise ValueError(f"{own.case}: not both reached the optimum. Hint: measure anew")
        rows.append(
            f"| {own.case} | {seconds_in_words(best.seconds)} | {best.steps} | "
            f"{seconds_in_words(own.seconds)} | {own.steps} | {best.seconds / own.seconds:.1f} × |"
        )
    machine = stored[0]["machine"]
    versions = ", ".join(f"{n} {stored[0]['versions'][n]}" for n in ("scikit-learn", "scipy"))
    words = (
        f"Seconds to within {AGREED:g} of the least objective, in turns, on "
        f"{'one core' if fits[0].cores == 1 else f'{fits[0].cores} cores'} of an {machine['cpu']},"
        f"\nwith {versions}, of "
        f"{stored[0]['date']}\n(`benchmarks/results/fit.jsonl`, by "
        "`python -m benchmarks fit --json`)."
    )
    return replace_part(text, "fit", "\n".join([words, "", *rows]) + "\n")


def by_case(lines: Iterable[dict[str, Any]]) -> list[list[Fitted]]:
    """Return stored fits, those of a case together."""
    names = [field.name for field in fields(Fitted)]
    fits = [Fitted(**{name: line[name] for name in names}) for line in lines]
    return [[f for f in fits if f.case == case] for case in dict.fromkeys(f.case for f in fits)]


def figure(fits: Sequence[Fitted]) -> str:
    """Return a case's objectives above the least one, by seconds, as SVG.

    xent's line is that of its steps; scikit-learn's joins its fits.
    """
    from xent.report.plots import convergence

    own, _ = gain(fits)
    least = own.objective / (1.0 + own.excess)
    points = [(OWN, seconds, loss / least - 1.0) for seconds, loss in own.history]
    points += [(PEER, f.seconds, f.excess) for f in fits if f.name != OWN]
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, seconds, excess in points:
        if excess > ROUNDING:
            curves.setdefault(name, []).append((seconds, excess))
    return convergence(
        curves,
        up="objective above the least, relatively",
        label=f"{own.case}: how far each fit is above the least objective, by seconds",
    )
