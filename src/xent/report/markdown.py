"""A score and a comparison as Markdown, for a comment on a change or a page of a wiki."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xent.report.parts import (
    Table,
    class_table,
    comparison_parts,
    concentration,
    headline,
    mistakes_table,
    slice_table,
    split_table,
    worst_table,
)
from xent.report.wording import plain

if TYPE_CHECKING:
    from xent.scoring import Comparison, Score

__all__ = ["render_comparison_markdown", "render_markdown"]

# What names somebody or something, or an emoji: read as such in the finished text, so that writing
# its first character as a number is not enough. And beyond letters, digits and a few others a
# character may mean something, as do those in the midst of an address.
_MEANING = re.compile(
    r"(?P<call>@|#(?=\w)|(?<!\w)GH-(?=\d)|:(?=[\w+-]+:))"
    r"|[^\w .,;%+−–±×∞°()…'?/:=-]|_|:(?=//)|(?<=www)\."
)


def render_markdown(score: Score) -> str:
    """Return the report of a score as Markdown with tables, as GitHub and others read it.

    No value of the data is read as Markdown or HTML, and none mentions anybody.

    Parameters
    ----------
    score
        What `xent.scoring.score` returned.

    See Also
    --------
    xent.report.render_text : the same for a terminal.

    Examples
    --------
    >>> from xent.scoring import score
    >>> print(render_markdown(score("examples/predictions.csv")).splitlines()[2])
    **0.4538 nats a row** = 0.6547 bits
    """
    said = headline(score)
    lines = [f"### Log loss of {_literal(score.path)}", ""]
    lines += [f"**{said['loss']} nats a row** = {said['bits']} bits", ""]
    lines += _paragraphs(said["between"], said["meaning"])
    for warning in said["warnings"]:
        lines += [f"> **Note:** {_literal(warning)}", ""]
    facts = Table(
        "", ["", "", ""], [[name, value, about] for name, value, about in said["figures"]]
    )
    lines += [*_table(facts), *_paragraphs(concentration(score))]
    tables = [class_table(score), split_table(score), mistakes_table(score)]
    tables += [slice_table(score, column)["table"] for column in score.by]
    tables += [worst_table(score)]
    for table in tables:
        if table is not None:
            lines += _table(table)
    lines += ["<details><summary>How the table was read</summary>", ""]
    lines += [f"- {_literal(line)}" for line in score.reading]
    return "\n".join([*lines, "", "</details>", ""])


def render_comparison_markdown(comparison: Comparison) -> str:
    """Return the report of a comparison as Markdown, as `render_markdown` does that of a score.

    Parameters
    ----------
    comparison
        What `xent.scoring.compare` returned.

    Examples
    --------
    >>> from xent.scoring import compare
    >>> one = {"id": [1, 2], "label": [0, 1], "p": [0.5, 0.5]}
    >>> text = render_comparison_markdown(compare(one, one | {"p": [0.5, 0.6]}, key="id"))
    >>> "which may be chance" in text
    True
    """
    parts = comparison_parts(comparison)
    lines = ["### Comparison of predictions", ""]
    for verdict, facts in zip(parts["verdicts"], parts["facts"], strict=True):
        lines += [f"**{_literal(verdict)}**", "", *(f"- {_literal(fact)}" for fact in facts), ""]
    for table in (parts["models"], *parts["groups"], *parts["rows"]):
        lines += _table(table)
    for note in parts["notes"]:
        lines += [f"{_literal(note)}.", ""]
    return "\n".join(lines)


def _paragraphs(*texts: str) -> list[str]:
    """Return texts without values of the data, those that say something."""
    return [line for text in texts if text for line in (text, "")]


def _table(table: Table) -> list[str]:
    """Return a table, its first column to the left and numbers to the right."""
    rule = [":--", *["--:"] * (len(table.heads) - 1)]
    rows = [[_literal(cell) for cell in row] for row in (table.heads, *table.rows)]
    rows.insert(1, rule)
    lines = [f"**{_literal(table.caption)}**", ""] if table.caption else []
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return [*lines, "", *([_literal(table.left_out), ""] if table.left_out else [])]


def _literal(text: str) -> str:
    """Return text that Markdown shows as it is.

    A character that might mean something is written as its number. One that would mention somebody
    is code too, where nobody is looked for, and its name is then a text of its own; a span of
    backticks would be broken by a backtick or a bar in the text.

    Examples
    --------
    >>> print(_literal("a|b"), _literal("<b> & *c*"), _literal("@someone"))
    a&#124;b &#60;b&#62; &#38; &#42;c&#42; <code>&#64;</code>someone
    """
    return _MEANING.sub(_numbered, plain(text))


def _numbered(found: re.Match[str]) -> str:
    numbers = "".join(f"&#{ord(c)};" for c in found.group())
    return f"<code>{numbers}</code>" if found["call"] else numbers
