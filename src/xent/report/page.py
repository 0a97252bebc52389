"""A score as one HTML page: no script, nothing loaded from elsewhere, the same bytes every time."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from xent.errors import MissingExtraError
from xent.report.parts import (
    MOST_LABELS,
    Table,
    by_cost,
    class_table,
    comparison_parts,
    concentration,
    headline,
    left_out,
    loss_table,
    question,
    short,
    slice_table,
    worst_table,
)
from xent.report.score_plots import decomposition_bar, loss_histogram, reliability_diagram
from xent.report.wording import number, plain, probability, tenths

if TYPE_CHECKING:
    from xent.scoring import Comparison, Score
    from xent.scoring.table_score import ClassCalibration, Confusion

__all__ = ["render_comparison_page", "render_page"]

_MOST_PANELS = 8
_MOST_POINTS = 30
_LONGEST_LINE = 400


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
    figures = _Figures()
    page = {
        "title": "Log loss of predictions",
        "path": plain(score.path),
        "reading": [short(line, _LONGEST_LINE) for line in score.reading],
        **headline(score),
        "loss_plot": figures.add(loss_histogram(score.loss_bins))
        if score.explained and score.summary.finite_rows
        else "",
        "loss_table": loss_table(score) if score.explained else None,
        "concentration": concentration(score),
        **_calibration(score, figures),
        "classes": class_table(score),
        "confusion": _confusion(score),
        "slices": [slice_table(score, column) for column in score.by],
        "worst": worst_table(score),
        "comparison": None if comparison is None else comparison_parts(comparison),
    }
    return _rendered("score.html", page)


def render_comparison_page(comparison: Comparison) -> str:
    """Return the report of a comparison as an HTML page, as `render_page` does that of a score.

    Parameters
    ----------
    comparison
        What `xent.scoring.compare` returned.

    Raises
    ------
    MissingExtraError
        If jinja2 or matplotlib is not installed.

    See Also
    --------
    xent.report.render_comparison : the same for a terminal.

    Examples
    --------
    >>> from xent.scoring import compare
    >>> one = {"id": [1, 2], "label": [0, 1], "p": [0.5, 0.5]}
    >>> "which may be chance" in render_comparison_page(
    ...     compare(one, one | {"p": [0.5, 0.6]}, key="id")
    ... )
    True
    """
    return _rendered(
        "comparison.html",
        {
            "title": "Comparison of predictions",
            "path": " and ".join(short(model.path) for model in comparison.models),
            "reading": [
                short(f"{model.path}: {line}", _LONGEST_LINE)
                for model in comparison.models
                for line in model.reading
            ],
            "comparison": comparison_parts(comparison),
        },
    )


def _rendered(template: str, page: dict[str, Any]) -> str:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise MissingExtraError("jinja2", "report") from None
    import xent

    environment = Environment(
        loader=PackageLoader("xent.report"), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template(template).render(page=page, version=xent.__version__) + "\n"


class _Figures:
    """Figures on one page, whose inner names must not be each other's."""

    def __init__(self) -> None:
        try:
            from markupsafe import Markup
        except ImportError:
            raise MissingExtraError("jinja2", "report") from None
        self.markup = Markup
        self.many = 0

    def add(self, svg: str) -> Any:
        """Return a figure as markup with names of its own."""
        self.many += 1
        prefix = f"f{self.many}-"
        svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
        svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
        svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
        return self.markup(svg)


# ---- calibration --------------------------------------------------------------------------------


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

    asked = question(calibration.labels)
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
        f"nats off. Its predictions are {number(calibration.smooth_calibration_error)} off on the "
        "scale of probabilities (smooth calibration error)."
        if finite
        else "A prediction that called this certain was wrong: its loss, and the miscalibration "
        "in it, are infinite."
    )
    return {
        "question": asked,
        "curve": figures.add(reliability_diagram(calibration.histogram, curve, asked)),
        "bar": figures.add(decomposition_bar(split, asked)) if finite else "",
        "reading": reading,
        "table": Table(
            "What was predicted, and what came true",
            ["predicted", "came true", "band from", "to"],
            rows,
        ),
        "terms": Table("Its log loss (nats) and its Brier score", ["", "nats", "Brier"], terms),
    }


# ---- labels, slices, rows -----------------------------------------------------------------------


def _confusion(score: Score) -> dict[str, Any] | None:
    """Return the table of true and likeliest labels, of the costliest labels."""
    labels = [c.label for c in by_cost(c for c in score.classes if c.summary.n)][:MOST_LABELS]
    cells: dict[tuple[str, str], Confusion] = {(c.label, c.guess): c for c in score.confusions}
    if len(labels) < 2 or not score.explained:
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
        rows.append({"label": short(label), "cells": row})
    return {
        "heads": [short(label) for label in labels],
        "rows": rows,
        "left_out": left_out(len(score.classes) - len(labels), "labels"),
    }
