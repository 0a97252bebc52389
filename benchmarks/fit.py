"""Fitting beside scikit-learn: the same objective, how low each gets, and how soon.

Both minimise the mean cross-entropy with the same penalty. scikit-learn's solver stops by a rule of
its own, so it is timed at several tolerances, and what counts is its fastest fit that is within
`AGREED` of the least objective that anyone found; xent has its default tolerance. Objectives are
those of the coefficients, computed anew for both in float64.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import xent
from benchmarks.results import show_progress

__all__ = ["CASES", "Fitted", "cases_named", "compare", "table"]

AGREED = 1e-8
"""How far above the least objective a fit may be, relatively, to have reached it."""
TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Those that scikit-learn is given: its default, and towards the optimum."""


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x / 16.0, y


def _drawn(rows: int, dtype: type) -> Callable[[], tuple[Any, Any]]:
    """Return a maker of features of unlike sizes, some of them alike, and labels they say."""

    def make() -> tuple[Any, Any]:
        r = np.random.default_rng(0)
        mixed = r.standard_normal((64, 64)) / 8.0 + np.eye(64)
        x = r.standard_normal((rows, 64)) @ mixed
        scores = x @ r.standard_normal((64, 10)) * 0.3 + r.gumbel(size=(rows, 10))
        return x.astype(dtype), scores.argmax(axis=1)

    return make


CASES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "digits": _digits,
    "200 000 × 64 × 10": _drawn(200_000, np.float64),
    "200 000 × 64 × 10, float32": _drawn(200_000, np.float32),
    "1 000 000 × 64 × 10": _drawn(1_000_000, np.float64),
    "1 000 000 × 64 × 10, float32": _drawn(1_000_000, np.float32),
}


@dataclass(frozen=True)
class Fitted:
    """A classifier's fits of a case.

    Attributes
    ----------
    seconds
        The median of its turns.
    objective, excess
        What it arrived at, and how far that is, relatively, above the least of all.
    history
        xent's objective after each step, and the seconds that it took until there.
    """

    case: str
    name: str
    tolerance: float
    seconds: float
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


def compare(names: Sequence[str], rounds: int = 3) -> Iterator[list[Fitted]]:
    """Fit every case with both, in turns, and yield a case's results at a time."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    from xent.models import SoftmaxRegression

    for case in names:
        x, y = CASES[case]()
        makers: dict[tuple[str, float], Callable[[], Any]] = {
            ("xent", SoftmaxRegression().tol): SoftmaxRegression
        }
        for tol in TOLERANCES:
            makers["scikit-learn", tol] = lambda tol=tol: LogisticRegression(
                tol=tol, max_iter=10_000
            )
        SoftmaxRegression(tol=1e-3).fit(x[:5000], y[:5000])  # compiles and imports
        taken: dict[tuple[str, float], list[float]] = {key: [] for key in makers}
        fitted: dict[tuple[str, float], Any] = {}
        for turn in range(rounds):
            for key, make in makers.items():
                show_progress(f"{case}: {key[0]}, tol {key[1]:g}, {turn + 1} of {rounds}")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    start = time.perf_counter()
                    fitted[key] = make().fit(x, y)
                    taken[key].append(time.perf_counter() - start)
        reached = {key: _objective(model, x, y) for key, model in fitted.items()}
        least = min(reached.values())
        yield [
            Fitted(
                case,
                *key,
                statistics.median(taken[key]),
                int(np.max(model.n_iter_)),
                reached[key],
                reached[key] / least - 1.0,
                tuple((s.seconds, s.loss) for s in getattr(model, "history_", ())),
            )
            for key, model in fitted.items()
        ]


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
        own = next(f for f in fits if f.name == "xent")
        there = [f for f in fits if f.name != "xent" and f.excess <= AGREED]
        if own.excess > AGREED:
            lines.append(f"  xent did not reach the optimum to {AGREED:g}")
        elif there:
            best = min(there, key=lambda f: f.seconds)
            lines.append(
                f"  to {AGREED:g}, xent is {best.seconds / own.seconds:.2f} × as fast as "
                f"scikit-learn (tol {best.tolerance:g})"
            )
        else:
            lines.append(f"  scikit-learn did not reach the optimum to {AGREED:g}")
    return "\n".join(lines[1:]) + "\n"
