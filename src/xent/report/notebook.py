"""A score and a comparison as a piece of HTML for a notebook: what they are, at a glance."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from xent.report.parts import Table, class_table, comparison_parts, headline

if TYPE_CHECKING:
    from xent.scoring import Comparison, Score

__all__ = ["comparison_html", "score_html"]


def score_html(score: Score) -> str:
    """Return a score as HTML without styles of its own: its number, and the log loss by label.

    Examples
    --------
    >>> from xent.scoring import score
    >>> "<b>0.4538</b> nats a row" in score_html(score("examples/predictions.csv"))
    True
    """
    said = headline(score)
    lines = [
        f"<p><b>{said['loss']}</b> nats a row = {said['bits']} bits. {escape(said['between'])}"
    ]
    lines += [f" {escape(said['meaning'])}</p>"]
    lines += [f"<p><b>{escape(warning)}</b></p>" for warning in said["warnings"]]
    return f"<div>{''.join(lines)}{_table(class_table(score))}</div>"


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as HTML without styles of its own: who is better, and the models."""
    parts = comparison_parts(comparison)
    lines = [f"<p><b>{escape(verdict)}</b></p>" for verdict in parts["verdicts"]]
    return f"<div>{''.join(lines)}{_table(parts['models'])}</div>"


def _table(table: Table) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    more = f"<p>{escape(table.left_out)}</p>" if table.left_out else ""
    caption = f"<caption>{escape(table.caption)}</caption>"
    body = f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody>"
    return f"<table>{caption}{body}</table>{more}"
