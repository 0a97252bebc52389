"""`xent demo`: cross-entropy minimised, measured and explained on real data, in under a minute.

Two data sets that come with scikit-learn (handwritten digits; breast tumours), four models each,
predicted by 5-fold cross-validation, written as Parquet files and scored by the same code as
`xent score`. One of the models minimises xent's own cross-entropy.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xent.errors import InfiniteLossWarning, MissingExtraError, OptionError
from xent.files import write_whole
from xent.report import render_page
from xent.report.compare_text import verdict
from xent.scoring import Score, compare, log_loss, score

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

__all__ = ["Entry", "render", "run", "write_page"]

FOLDS = 5
SOFTMAX = "softmax regression"
FOREST = "random forest"
FLOOR = 1e-3


@dataclass(frozen=True)
class Entry:
    """One model on one data set.

    Attributes
    ----------
    data, model
        Their names.
    score
        The score of its prediction file.
    clipped
        scikit-learn's log loss of the same predictions as float64 and as float32.
    plain
        xent's, likewise.
    history
        The losses of the optimiser's steps on the first fold, where the model has them.
    """

    data: str
    model: str
    score: Score
    clipped: tuple[float, float]
    plain: tuple[float, float]
    history: tuple[float, ...] = ()


def _models() -> dict[str, Callable[[], Any]]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from xent.models import SoftmaxRegression

    return {
        SOFTMAX: lambda: make_pipeline(StandardScaler(), SoftmaxRegression()),
        "k nearest neighbours": lambda: KNeighborsClassifier(n_neighbors=5),
        "naive Bayes": GaussianNB,
        FOREST: lambda: RandomForestClassifier(n_estimators=100, random_state=0),
    }


def _data() -> Iterator[tuple[str, Any, Any, list[str]]]:
    from sklearn.datasets import load_breast_cancer, load_digits

    digits = load_digits()
    yield "digits", digits.data, digits.target, [str(d) for d in range(10)]
    tumours = load_breast_cancer()
    yield "breast cancer", tumours.data, tumours.target, [str(t) for t in tumours.target_names]


def run(directory: str | Path, *, console: Console | None = None) -> list[Entry]:
    """Fit, predict, write and score every model on both data sets.

    Parameters
    ----------
    directory
        Where the ``predictions-*.parquet`` files go; made if it is not there.
    console
        Where progress is shown; nowhere if it is no terminal.

    Returns
    -------
    list of Entry
        One entry for each model and data set.

    Raises
    ------
    OptionError
        If the directory cannot be made.
    MissingExtraError
        If scikit-learn, scipy, duckdb or rich is not installed.
    """
    try:
        import duckdb  # noqa: F401
        import rich  # noqa: F401
        import scipy  # noqa: F401
        from sklearn.model_selection import StratifiedKFold
    except ImportError as error:
        raise MissingExtraError(str(error.name).split(".", maxsplit=1)[0], "demo") from None

    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"the demo's folder must be one that can be made: {str(folder)!r} cannot: "
            f"{error.strerror}. Hint: name another, as in `xent demo /tmp/xent`."
        ) from None
    entries = []
    models = _models()
    with _progress(console, 2 * len(models) * FOLDS) as advance:
        for data, x, y, names in _data():
            folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(x, y))
            for model, make in models.items():
                predicted = np.zeros((len(y), len(names)))
                history: tuple[float, ...] = ()
                for train, test in folds:
                    advance(f"{data}: {model}")
                    estimator = make().fit(x[train], y[train])
                    predicted[test] = estimator.predict_proba(x[test])
                    if model == SOFTMAX and not history:
                        history = tuple(step.loss for step in estimator[-1].history_)
                path = folder / f"predictions-{data}-{model}.parquet".replace(" ", "-")
                _write_predictions(path, names, y, predicted)
                entries.append(_entry(data, model, path, y, predicted, history))
    return entries


class _progress:  # noqa: N801 - used as a function
    """A bar on a terminal's stderr; nothing elsewhere."""

    def __init__(self, console: Console | None, total: int) -> None:
        from rich.console import Console as AnyConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = console or AnyConsole(stderr=True)
        columns = (TextColumn("{task.description:36}"), BarColumn(), TimeElapsedColumn())
        self.bar = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> Callable[[str], None]:
        self.bar.start()
        return lambda what: self.bar.update(self.task, description=what, advance=1)

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _write_predictions(path: Path, names: list[str], y: Any, predicted: Any) -> None:
    """Write id, label and a probability for each class; the file appears whole or not at all."""
    import duckdb

    columns = {"id": np.arange(len(y)), "label": np.asarray(names)[y]}
    columns |= {f"p_{name}": predicted[:, k] for k, name in enumerate(names)}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with duckdb.connect() as connection:
            connection.register("predictions", columns)
            target = str(part).replace("'", "''")
            connection.execute(f"COPY predictions TO '{target}' (FORMAT parquet)")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _entry(
    data: str, model: str, path: Path, y: Any, predicted: Any, history: tuple[float, ...]
) -> Entry:
    from sklearn.metrics import log_loss as clipped_log_loss

    single = predicted.astype(np.float32)
    labels = list(range(predicted.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InfiniteLossWarning)  # the table says it
        plain = tuple(log_loss(y, p, labels=labels) for p in (predicted, single))
    clipped = tuple(float(clipped_log_loss(y, p, labels=labels)) for p in (predicted, single))
    return Entry(
        data=data,
        model=model,
        score=score(path, label="label", probabilities="p_*"),
        clipped=(clipped[0], clipped[1]),
        plain=(plain[0], plain[1]),
        history=history,
    )


def write_page(directory: str | Path, entries: list[Entry]) -> tuple[Path, str]:
    """Write the page of the digits' predictions, and compare two of the models on them.

    Parameters
    ----------
    directory
        Where ``report.html`` goes.
    entries
        What `run` returned.

    Returns
    -------
    tuple
        The page's path, and which of the two models is better, in a sentence.

    Raises
    ------
    OptionError
        If the page cannot be written.
    MissingExtraError
        If matplotlib or jinja2 is not installed.
    """
    ours, other = (
        next(e for e in entries if e.data == "digits" and e.model == model)
        for model in (SOFTMAX, FOREST)
    )
    path = Path(directory) / "report.html"
    result = score(ours.score.path, label="label", probabilities="p_*", class_wise=True)
    found = compare(other.score.path, ours.score.path, key="id")
    page = render_page(result, found).encode("utf-8", errors="backslashreplace")
    write_whole(path, page, "the demo's folder")
    return path, verdict(found.models[0], found.models[1])


# ---- what it prints ---------------------------------------------------------------------------


def render(entries: list[Entry], *, width: int = 100, color: bool = False) -> str:
    """Return the demonstration's report as text."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=max(width, 80), force_terminal=color, no_color=not color, highlight=False
    )
    for data in dict.fromkeys(e.data for e in entries):
        _render_data(console, [e for e in entries if e.data == data])
    _render_floors(console, entries)
    _render_dtypes(console, entries)
    return out.getvalue()


def _render_data(console: Console, entries: list[Entry]) -> None:
    base = entries[0].score
    console.print(
        f"[bold]{entries[0].data}[/]: {base.n} rows, {len(base.classes)} classes; every row is "
        "predicted by a model that did not see it.\nKnowing only how common each class is costs "
        f"{base.base_rate_loss:.4f} nats a row, the entropy of the labels."
    )
    for entry in entries:
        if entry.history:
            console.print(
                f"The {entry.model} minimised its training cross-entropy from "
                f"{entry.history[0]:.4f} to {entry.history[-1]:.4f} nats,\nin "
                f"{len(entry.history) - 1} steps of L-BFGS (first fold, penalty included)."
            )
    table = _table("model")
    for heading in ("accuracy", "log loss, nats", "bits", "the truth got", "P(truth) = 0"):
        table.add_column(heading, justify="right")
    for entry in sorted(entries, key=lambda e: e.score.log_loss):
        score = entry.score
        loss, bits = "∞", "∞"
        if math.isfinite(score.log_loss):
            loss = f"{score.log_loss:.4f} ± {score.standard_error or 0.0:.4f}"
            bits = f"{score.log_loss / math.log(2):.4f}"
        table.add_row(
            entry.model,
            f"{100 * score.accuracy:.2f} %",
            loss,
            bits,
            f"{100 * score.typical_probability:.0f} %",
            f"{score.infinite_rows} rows" if score.infinite_rows else "",
        )
    console.print(table)


def _render_floors(console: Console, entries: list[Entry]) -> None:
    infinite = [e for e in entries if e.score.infinite_rows]
    if not infinite:
        return
    console.print(
        "[bold]Infinite scores[/]: what was held to be impossible happened. A floor raises every\n"
        "smaller probability, so the score under it says as much of the floor as of the model."
    )
    for entry in infinite:
        score = entry.score
        finite = score.finite_log_loss
        without = "" if finite is None else f", and without those rows it is {finite:.4f}"
        console.print(
            f"  {entry.data}, {entry.model}: {score.infinite_rows} rows had P(truth) = 0;\n"
            f"    with a floor of {FLOOR:g} the loss would be {score.floor_scores[FLOOR]:.4f} nats"
            f"{without}."
        )
    console.print()


def _render_dtypes(console: Console, entries: list[Entry]) -> None:
    """Show what a float32 copy of the same predictions does to each library's score."""
    console.print("[bold]The same predictions, stored as float64 and as float32[/]")
    table = _table("data", "model")
    for heading in ("scikit-learn, 64", "32", "xent, 64", "32"):
        table.add_column(heading, justify="right")
    for entry in entries:
        losses = (*entry.clipped, *entry.plain)
        table.add_row(entry.data, entry.model, *(_number(loss) for loss in losses))
    console.print(table)
    for name, of in (("scikit-learn", _clipped), ("xent", _plain)):
        for data in dict.fromkeys(e.data for e in entries):
            own = [e for e in entries if e.data == data]
            before, after = ([e.model for e in sorted(own, key=lambda e: of(e)[k])] for k in (0, 1))
            verdict = "ranks the models alike on both copies"
            if before != after:
                verdict = (
                    f"ranks them «{' < '.join(before)}» as float64, but «{' < '.join(after)}» as "
                    "float32"
                )
            console.print(f"  {data}: {name} {verdict}.")
    console.print(
        "scikit-learn raises probabilities to the spacing of their dtype at 1, so its score\n"
        "depends on the dtype wherever P(truth) is smaller; xent changes no number."
    )


def _clipped(entry: Entry) -> tuple[float, float]:
    return entry.clipped


def _plain(entry: Entry) -> tuple[float, float]:
    return entry.plain


def _table(*left: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in left:
        table.add_column(heading)
    return table


def _number(x: float) -> str:
    return f"{x:.4f}" if math.isfinite(x) else "∞"
