"""A score as one HTML page: no script, nothing loaded from elsewhere, the same bytes every time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xent.errors import MissingExtraError
from xent.report.score_plots import (
    decomposition_bar,
    loss_bars,
    loss_histogram,
    reliability_diagram,
)
from xent.report.wording import (
    count,
    number,
    percent,
    plain,
    probability,
    tenths,
    truth_head,
)
from xent.units import from_nats

if TYPE_CHECKING:
    from xent.scoring import Comparison, Score
    from xent.scoring.table_score import ClassCalibration, Confusion

__all__ = ["render_page"]

_MOST_LABELS, _MOST_SLICES, _MOST_PANELS, _MOST_PROBABILITIES = 20, 50, 8, 4
_MOST_POINTS = 30
_LONGEST, _LONGEST_LINE = 60, 400


class _Table(NamedTuple):
    """A table: what it shows, its heads, its rows of texts, and what of it is left out."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: str = ""


def render_page(score: Score, comparison: Comparison | None = None) -> str:
    """Return the report of a score as an HTML page.

    It needs no network and no script, follows the reader's light or dark theme, and is below 400 kB
    however many labels and slices there are: of many those are shown that cost most.

    Parameters
    ----------
    score
        What `xent.scoring.score` returned.
    comparison
        What `xent.scoring.compare` returned, for a section of its own.

    Raises
    ------
    MissingExtraError
        If jinja2, matplotlib or scipy is not installed.

    See Also
    --------
    xent.report.render_text : the same for a terminal.

    Examples
    --------
    >>> from xent.scoring import score
    >>> "0.4538 <small>nats" in render_page(score("examples/predictions.csv"))
    True
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise MissingExtraError("jinja2", "report") from None
    import xent

    environment = Environment(
        loader=PackageLoader("xent.report"), autoescape=True, undefined=StrictUndefined
    )
    figures = _Figures(Markup)
    page = {
        "title": "Log loss of predictions",
        "path": plain(score.path),
        "version": xent.__version__,
        "reading": [_short(line, _LONGEST_LINE) for line in score.reading],
        **_headline(score),
        "loss_plot": figures.add(loss_histogram(score.loss_bins))
        if score.summary.finite_rows
        else "",
        "loss_table": _loss_table(score),
        "concentration": _concentration(score),
        **_calibration(score, figures),
        "classes": _class_table(score),
        "confusion": _confusion(score),
        "slices": [_slice_table(score, column) for column in score.by],
        "worst": _worst_table(score),
        "comparison": None if comparison is None else _comparison(comparison),
    }
    return environment.get_template("score.html").render(page=page) + "\n"


class _Figures:
    """Figures on one page, whose inner names must not be each other's."""

    def __init__(self, markup: Any) -> None:
        self.markup = markup
        self.many = 0

    def add(self, svg: str) -> Any:
        """Return a figure as markup with names of its own."""
        self.many += 1
        prefix = f"f{self.many}-"
        svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
        svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
        svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
        return self.markup(svg)


def _short(text: str, longest: int = _LONGEST) -> str:
    """Return a text with values from the data as it may stand on a page."""
    text = plain(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _headline(score: Score) -> dict[str, Any]:
    between = ""
    if score.interval is not None:
        ends = f"{number(score.interval.lower)} to {number(score.interval.upper)}"
        by = "" if score.clusters is None else f", by {score.clusters.clusters:,} clusters"
        between = (
            f"Another sample of such rows would have another loss: the mean of all of them is "
            f"between {ends} nats with 95 % confidence{by}."
        )
    if score.infinite_rows:
        meaning = (
            f"In {count(score.infinite_rows, 'row')} of {score.n:,} the truth was called "
            "impossible, which no number of good predictions makes up for."
        )
        if score.finite_log_loss is not None:
            meaning += f" Without those the log loss is {number(score.finite_log_loss)} nats."
    else:
        meaning = f"Typically the truth got a probability of {percent(score.typical_probability)}."
        if score.skill is not None:
            meaning += (
                f" Always predicting the labels' own frequencies would cost "
                f"{number(score.base_rate_loss)} nats; "
                + (
                    f"{percent(score.skill)} of that is saved."
                    if score.skill >= 0
                    else "this is worse."
                )
            )
    figures = [
        ("rows", f"{score.n:,}", "that count"),
        ("accuracy", percent(score.accuracy), "the truth is most probable"),
        ("Brier score", number(score.brier_score), "of 2 at most"),
        ("base rate", number(score.base_rate_loss), "nats, of these rows"),
        ("perplexity", number(score.perplexity), "equally likely labels"),
    ]
    if score.skill is not None:
        figures.insert(1, ("skill", percent(score.skill), "of the base rate's loss saved"))
    if score.label_entropy is not None:
        figures.append(("labels' own", number(score.label_entropy), "nats, which none removes"))
    if score.standard_error is not None:
        figures.append(("standard error", number(score.standard_error), "nats"))
    if score.infinite_rows:
        figures.append(("infinite rows", f"{score.infinite_rows:,}", "P(truth) = 0"))
    return {
        "loss": number(score.log_loss),
        "bits": number(from_nats(score.log_loss, "bits")),
        "between": between,
        "meaning": meaning,
        "warnings": [f"{plain(w)[0].upper()}{plain(w)[1:]}." for w in score.warnings],
        "figures": figures,
    }


def _concentration(score: Score) -> str:
    worst = score.concentration(0.01)
    if worst is None or score.n < 100:
        return "Most rows lose little, and a few lose much; those few decide the mean."
    return f"The worst 1 % of the rows make up {percent(worst)} of the whole loss."


def _loss_table(score: Score) -> _Table:
    rows = []
    for bar in loss_bars(score.loss_bins):
        what = "∞" if math.isinf(bar.lower) else f"{number(bar.lower)} to {number(bar.upper)}"
        rows.append([what, f"{bar.rows:,}", tenths(bar.of_rows), tenths(bar.of_loss)])
    heads = ["loss (nats)", "rows", "of the rows", "of the loss"]
    return _Table("Rows by their loss", heads, rows)


# ---- calibration --------------------------------------------------------------------------------


def _question(labels: Sequence[str]) -> str:
    if not labels:
        return "Is the likeliest label right?"
    more = f", or one of {len(labels) - 1:,} rarer labels" if len(labels) > 1 else ""
    return f"Is it {_short(labels[0])}{more}?"


def _calibration(score: Score, figures: _Figures) -> dict[str, Any]:
    asked: list[ClassCalibration] = []
    about = "Predictions of one label out of two are right as often as they say, or not."
    if len(score.names) > 2:
        about = (
            "A yes-or-no question has a loss of its own, which splits into what cannot be known "
            "(uncertainty), what the predictions tell (discrimination) and what is lost because "
            "they say too much or too little (miscalibration). The losses of these questions do "
            "not add up to the log loss above."
        )
        asked += [] if score.top_calibration is None else [score.top_calibration]
    single = [c for c in score.calibration if len(c.labels) == 1]
    single.sort(key=lambda c: (-c.log_loss.miscalibration, c.labels))
    shown = single[: _MOST_PANELS - len(asked)]
    asked += shown
    rest = len(score.calibration) - len(shown)
    return {
        "calibration_about": about,
        "calibration": [_panel(each, figures) for each in asked],
        "calibration_rest": f"{rest:,} more labels, less miscalibrated, are in the JSON (--json)."
        if rest
        else "",
    }


def _panel(calibration: ClassCalibration, figures: _Figures) -> dict[str, Any]:
    from xent.scoring.reliability import reliability_curve

    question = _question(calibration.labels)
    split = calibration.log_loss
    curve = reliability_curve(calibration.histogram)
    step = max(1, math.ceil(len(curve.predicted) / _MOST_POINTS))
    rows = [
        [probability(p), probability(r), probability(low), probability(high)]
        for p, r, low, high in zip(
            curve.predicted[::step],
            curve.recalibrated[::step],
            curve.lower[::step],
            curve.upper[::step],
            strict=True,
        )
    ]
    finite = math.isfinite(split.score)
    terms = [
        [name, number(getattr(split, field)), number(getattr(calibration.brier, field))]
        for name, field in (
            ("uncertainty", "uncertainty"),
            ("− discrimination", "discrimination"),
            ("+ miscalibration", "miscalibration"),
            ("= its score", "score"),
        )
    ]
    reading = (
        f"Recalibration would take {number(split.miscalibration)} of its {number(split.score)} "
        "nats off."
        if finite
        else "A prediction that called this certain was wrong: its loss, and the miscalibration "
        "in it, are infinite."
    )
    return {
        "question": question,
        "curve": figures.add(reliability_diagram(calibration.histogram, curve, question)),
        "bar": figures.add(decomposition_bar(split, question)) if finite else "",
        "reading": reading,
        "table": _Table(
            "What was predicted, and what came true",
            ["predicted", "came true", "band from", "to"],
            rows,
        ),
        "terms": _Table("Its log loss (nats) and its Brier score", ["", "nats", "Brier"], terms),
    }


# ---- labels, slices, rows -----------------------------------------------------------------------


def _left_out(many: int, what: str) -> str:
    return f"{many:,} more {what}, which cost less, are in the JSON (--json)." if many > 0 else ""


def _by_cost(items: Iterable[Any]) -> list[Any]:
    return sorted(items, key=lambda item: (-item.summary.total, -item.summary.n, item.label))


def _class_table(score: Score) -> _Table:
    some = _by_cost(c for c in score.classes if c.summary.n)
    rows = [
        [
            _short(c.label),
            f"{c.summary.n:,}",
            number(c.summary.log_loss),
            number(from_nats(c.summary.log_loss, "bits")),
            tenths(c.share),
            tenths(c.accuracy),
        ]
        for c in some[:_MOST_LABELS]
    ]
    heads = [truth_head(score), "rows", "nats a row", "bits", "of the loss", "accuracy"]
    left = _left_out(len(some) - len(rows), "labels")
    return _Table("The log loss by true label, the costliest first", heads, rows, left)


def _confusion(score: Score) -> dict[str, Any] | None:
    """Return the table of true and likeliest labels, of the costliest labels."""
    labels = [c.label for c in _by_cost(c for c in score.classes if c.summary.n)][:_MOST_LABELS]
    cells: dict[tuple[str, str], Confusion] = {(c.label, c.guess): c for c in score.confusions}
    if len(labels) < 2:
        return None
    most = max((c.share or 0.0 for c in cells.values()), default=0.0) or 1.0
    rows = []
    for label in labels:
        row = []
        for guess in labels:
            cell = cells.get((label, guess))
            if cell is None:
                row.append({"text": "", "shade": "0", "right": False})
                continue
            infinite = bool(cell.cell.summary.infinite_rows)
            shade = 0.55 if infinite else 0.05 + 0.5 * (cell.share or 0.0) / most
            text = "∞" if infinite else tenths(cell.share)
            row.append({"text": text, "shade": f"{shade:.2f}", "right": label == guess})
        rows.append({"label": _short(label), "cells": row})
    return {
        "heads": [_short(label) for label in labels],
        "rows": rows,
        "left_out": _left_out(len(score.classes) - len(labels), "labels"),
    }


def _slice_table(score: Score, column: str) -> dict[str, Any]:
    some = [s for s in score.slices if s.column == column]
    rows = []
    for s in some[:_MOST_SLICES]:
        error = s.cell.summary.standard_error
        rows.append(
            [
                "(none)" if s.value is None else _short(s.value),
                f"{s.cell.summary.n:,}",
                number(s.cell.summary.log_loss),
                "" if error is None else f"± {number(error)}",
                tenths(s.share),
                tenths(s.cell.accuracy),
            ]
        )
    heads = ["value", "rows", "nats a row", "standard error", "of the loss", "accuracy"]
    left = _left_out(len(some) - len(rows), "values")
    caption = f"The log loss by {_short(column)}, the costliest first"
    return {"column": _short(column), "table": _Table(caption, heads, rows, left)}


def _worst_table(score: Score) -> _Table | None:
    if not score.worst:
        return None
    rows = []
    columns = list(dict.fromkeys(column for row in score.worst for column in row.shown))
    for row in score.worst[:_MOST_SLICES]:
        likeliest = sorted(row.probabilities.items(), key=lambda item: -item[1])
        believed = [f"{_short(n)} {probability(p)}" for n, p in likeliest[:_MOST_PROBABILITIES]]
        rows.append(
            [
                _short(row.name),
                _short(row.label),
                probability(row.p_truth),
                number(row.loss),
                ", ".join(believed),
                *(_short(row.shown.get(column) or "") for column in columns),
            ]
        )
    heads = ["row", "true label", "P(truth)", "nats", "likeliest labels", *map(_short, columns)]
    return _Table("The rows that lost most", heads, rows)


def _comparison(comparison: Comparison) -> dict[str, Any]:
    from xent.report.compare_text import signed, verdict

    first, *others = comparison.models
    models = []
    for model in comparison.models:
        total = model.total
        ends = ["", ""]
        if total is not None and total.interval is not None:
            ends = [signed(total.interval.lower), signed(total.interval.upper)]
        models.append(
            [
                _short(model.path),
                number(model.log_loss),
                percent(model.accuracy),
                "" if total is None else signed(total.mean),
                *ends,
            ]
        )
    level = percent(comparison.level)
    heads = ["model", "log loss (nats)", "accuracy", "difference", f"{level} from", "to"]
    groups = []
    for model in others:
        for column in dict.fromkeys(group.column for group in model.groups):
            some = [g for g in model.groups if g.column == column]
            some.sort(key=lambda g: (-abs(g.mean) if g.mean is not None else 0.0, str(g.value)))
            rows = [
                [
                    "(none)" if g.value is None else _short(g.value),
                    f"{g.pairs.rows:,}",
                    signed(g.mean),
                    "" if g.adjusted_p_value is None else number(g.adjusted_p_value),
                ]
                for g in some[:_MOST_LABELS]
            ]
            caption = f"{_short(model.path)}, the difference by {_short(str(column))}"
            left = _left_out(len(some) - len(rows), "values")
            named = [_short(str(column)), "rows", "nats a row", "p, by Holm"]
            groups.append(_Table(caption, named, rows, left))
    return {
        "verdicts": [plain(verdict(first, model)) for model in others],
        "models": _Table(
            f"{comparison.rows:,} rows paired by {_short(comparison.key)}", heads, models
        ),
        "groups": groups,
        "notes": [f"{note[0].upper()}{note[1:]}" for note in map(plain, comparison.notes)],
    }
