"""What a score or a comparison has to say, in texts and tables of texts: for any kind of markup."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xent.report.compare_text import by_size, signed, total_facts, verdict
from xent.report.score_plots import loss_bars
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

__all__ = [
    "MOST_LABELS",
    "Table",
    "by_cost",
    "class_table",
    "comparison_parts",
    "concentration",
    "headline",
    "left_out",
    "loss_table",
    "mistakes_table",
    "question",
    "short",
    "slice_table",
    "split_table",
    "worst_table",
]

MOST_LABELS = 20
_MOST_SLICES, _MOST_PROBABILITIES, _MOST_MISTAKES = 50, 4, 5
_LONGEST = 60


class Table(NamedTuple):
    """A table: what it shows, its heads, its rows of texts, and what of it is left out."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: str = ""


def short(text: str, longest: int = _LONGEST) -> str:
    """Return a text with values from the data as it may stand on a page."""
    text = plain(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def headline(score: Score) -> dict[str, Any]:
    """Return the number of a score, and what to read beside it."""
    between = ""
    if score.interval is not None:
        ends = f"{number(score.interval.lower)} and {number(score.interval.upper)}"
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
        floors = [f"{number(loss)} at {floor:g}" for floor, loss in score.floor_scores.items()]
        if floors:
            meaning += f" With a floor under every probability it would be {', '.join(floors)}."
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


def concentration(score: Score) -> str:
    """Return which rows the loss is that of, in a sentence; nothing where there is no 1 %."""
    worst = score.concentration(0.01)
    if worst is None or score.n < 100:
        return ""
    of_variance = score.variance_concentration(0.01)
    more = "" if of_variance is None else f", and {percent(of_variance)} of its variance"
    return f"The worst 1 % of the rows make up {percent(worst)} of the whole loss{more}."


def loss_table(score: Score) -> Table:
    """Return the rows by their loss."""
    rows = []
    for bar in loss_bars(score.loss_bins):
        what = "∞" if math.isinf(bar.lower) else f"{number(bar.lower)} to {number(bar.upper)}"
        rows.append([what, f"{bar.rows:,}", tenths(bar.of_rows), tenths(bar.of_loss)])
    heads = ["loss (nats)", "rows", "of the rows", "of the loss"]
    return Table("Rows by their loss", heads, rows)


def question(labels: Sequence[str]) -> str:
    """Return a yes-or-no question about labels; about the likeliest if there are none."""
    if not labels:
        return "Is the likeliest label right?"
    more = f", or one of {len(labels) - 1:,} rarer labels" if len(labels) > 1 else ""
    return f"Is it {short(labels[0])}{more}?"


def left_out(many: int, what: str) -> str:
    """Return what is said of what a table does not show."""
    return f"{many:,} more {what}, which cost less, are in the JSON (--json)." if many > 0 else ""


def by_cost(items: Iterable[Any]) -> list[Any]:
    """Return classes, those which cost most first."""
    return sorted(items, key=lambda item: (-item.summary.total, -item.summary.n, item.label))


def class_table(score: Score) -> Table:
    """Return the log loss by label."""
    some = by_cost(c for c in score.classes if c.summary.n)
    rows = [
        [
            short(c.label),
            f"{c.summary.n:,}",
            number(c.summary.log_loss),
            number(from_nats(c.summary.log_loss, "bits")),
            tenths(c.share),
            tenths(c.accuracy),
        ]
        for c in some[:MOST_LABELS]
    ]
    heads = [truth_head(score), "rows", "nats a row", "bits", "of the loss", "accuracy"]
    left = left_out(len(some) - len(rows), "labels")
    return Table("The log loss by true label, the costliest first", heads, rows, left)


def slice_table(score: Score, column: str) -> dict[str, Any]:
    """Return the log loss by the values of a column."""
    some = [s for s in score.slices if s.column == column]
    rows = []
    for s in some[:_MOST_SLICES]:
        error = s.cell.summary.standard_error
        rows.append(
            [
                "(none)" if s.value is None else short(s.value),
                f"{s.cell.summary.n:,}",
                number(s.cell.summary.log_loss),
                "" if error is None else f"± {number(error)}",
                tenths(s.share),
                tenths(s.cell.accuracy),
            ]
        )
    heads = ["value", "rows", "nats a row", "standard error", "of the loss", "accuracy"]
    left = left_out(len(some) - len(rows), "values")
    caption = f"The log loss by {short(column)}, the costliest first"
    return {"column": short(column), "table": Table(caption, heads, rows, left)}


def worst_table(score: Score) -> Table | None:
    """Return the rows that lost most, if any are known."""
    if not score.worst:
        return None
    rows = []
    columns = list(dict.fromkeys(column for row in score.worst for column in row.shown))
    for row in score.worst[:_MOST_SLICES]:
        likeliest = sorted(row.probabilities.items(), key=lambda item: -item[1])
        believed = [f"{short(n)} {probability(p)}" for n, p in likeliest[:_MOST_PROBABILITIES]]
        rows.append(
            [
                short(row.name),
                short(row.label),
                probability(row.p_truth),
                number(row.loss),
                ", ".join(believed),
                *(short(row.shown.get(column) or "") for column in columns),
            ]
        )
    heads = ["row", "true label", "P(truth)", "nats", "likeliest labels", *map(short, columns)]
    return Table("The rows that lost most", heads, rows)


def comparison_parts(comparison: Comparison) -> dict[str, Any]:
    """Return what a comparison has to say."""
    first, *others = comparison.models
    models = []
    for model in comparison.models:
        total = model.total
        ends = ["", ""]
        if total is not None and total.interval is not None:
            ends = [signed(total.interval.lower), signed(total.interval.upper)]
        models.append(
            [
                short(model.path),
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
            rows = [
                [
                    "(none)" if g.value is None else short(g.value),
                    f"{g.pairs.rows:,}",
                    signed(g.mean),
                    "" if g.interval is None else signed(g.interval.lower),
                    "" if g.interval is None else signed(g.interval.upper),
                    "" if g.adjusted_p_value is None else number(g.adjusted_p_value),
                ]
                for g in by_size(some)[:MOST_LABELS]
            ]
            caption = f"{short(model.path)}, the difference by {short(str(column))}"
            left = left_out(len(some) - len(rows), "values")
            ends = [f"{level} from", "to"]
            named = [short(str(column)), "rows", "nats a row", *ends, "p, by Holm"]
            groups.append(Table(caption, named, rows, left))
    rows_of = []
    for model in others:
        for some_rows, word in ((model.worse, "lost"), (model.better, "gained")):
            told = [
                [
                    short(row.key),
                    short(row.label),
                    number(row.first),
                    number(row.second),
                    signed(row.difference),
                ]
                for row in some_rows
            ]
            if told:
                caption = f"Rows in which {short(model.path)} {word} most"
                heads_of_rows = ["row", "true label", "first's loss", "its loss", "difference"]
                rows_of.append(Table(caption, heads_of_rows, told))
    return {
        "verdicts": [plain(verdict(first, model)) for model in others],
        "facts": [_sentences(total_facts(model, comparison)) for model in others],
        "models": Table(
            f"{comparison.rows:,} rows paired by {short(comparison.key)}", heads, models
        ),
        "groups": groups,
        "rows": rows_of,
        "notes": [f"{note[0].upper()}{note[1:]}" for note in map(plain, comparison.notes)],
    }


def _sentences(facts: Iterable[tuple[str, str]]) -> list[str]:
    """Return facts with their names before them, and after each what is about it."""
    sentences: list[str] = []
    for name, said in facts:
        if name:
            sentences.append(f"{name}: {said}")
        else:
            sentences[-1] += f"; {said}"
    return sentences


def split_table(score: Score) -> Table | None:
    """Return how much of the losses of yes-or-no questions is miscalibration."""
    asked = list(score.calibration)
    if len(score.names) > 2 and score.top_calibration is not None:
        asked.insert(0, score.top_calibration)
    rows = [
        [
            question(each.labels),
            number(each.log_loss.score),
            number(each.log_loss.miscalibration),
            number(each.log_loss.discrimination),
            number(each.log_loss.uncertainty),
            number(each.smooth_calibration_error),
        ]
        for each in asked
    ]
    heads = ["question", "nats", "= miscalibration", "− discrimination", "+ uncertainty"]
    heads.append("smooth calibration error")
    caption = "As yes-or-no questions, each with a loss of its own"
    return Table(caption, heads, rows) if rows else None


def mistakes_table(score: Score) -> Table | None:
    """Return the labels that were taken for another, those which cost most first."""
    wrong = [c for c in score.confusions if c.label != c.guess]
    rows = [
        [
            short(c.label),
            short(c.guess),
            f"{c.cell.summary.n:,}",
            number(c.cell.summary.log_loss),
            tenths(c.share),
        ]
        for c in wrong[:_MOST_MISTAKES]
    ]
    heads = [truth_head(score), "taken for", "rows", "nats a row", "of the loss"]
    return Table("The costliest mistakes", heads, rows) if rows and len(score.names) > 2 else None
