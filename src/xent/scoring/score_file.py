"""Scores of parts of the rows: written to files, read again, and added up to that of the whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from xent.errors import OptionError, TableError
from xent.scoring.clusters import ClusterSummary
from xent.scoring.columns import listed
from xent.scoring.table_score import Score, ScoredRow
from xent.scoring.tally import Tally

__all__ = ["SUMMARY_FORMAT", "merge", "read_summary", "summary_document"]

SUMMARY_FORMAT = "xent score summary 1"
"""What the entry ``format`` of a summary says."""


def summary_document(score: Score) -> dict[str, Any]:
    """Return a score as a document for JSON, from which `read_summary` makes it again.

    It holds sums over groups of rows, and the worst rows with their names, labels and
    probabilities; no other row.

    Raises
    ------
    OptionError
        If the score is not explained.

    Examples
    --------
    >>> from xent.scoring import score
    >>> summary_document(score("examples/predictions.csv"))["format"]
    'xent score summary 1'
    """
    _require_explained("a summary", score)
    return {
        "format": SUMMARY_FORMAT,
        "path": score.path,
        "reading": list(score.reading),
        "names": list(score.names),
        "by": list(score.by),
        "floors": list(score.floors),
        "floor": score.floor,
        "allow_unnormalised": score.allow_unnormalised,
        "left_out": dict(score.left_out),
        "cluster": score.cluster,
        "clusters": None if score.clusters is None else score.clusters.to_dict(),
        "tally": score.tally.to_dict(),
        "worst": [_row_to_dict(row) for row in score.worst],
    }


def read_summary(path: str | Path) -> Score:
    """Return the score of which a file holds the summary.

    Parameters
    ----------
    path
        What ``xent score --summary`` wrote.

    Raises
    ------
    TableError
        If there is no such file, or it is something else.

    See Also
    --------
    merge : add up the scores of parts.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TableError(
            f"there must be a summary to read: got {str(path)!r}: {error.strerror}. "
            "Hint: `xent score TABLE --summary FILE` writes one."
        ) from None
    except ValueError as error:
        raise _no_summary(path, f"no JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != SUMMARY_FORMAT:
        got = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise _no_summary(path, f"a document of the format {got!r}")
    try:
        return _score_of(document)
    except (KeyError, TypeError, ValueError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise _no_summary(path, said) from None


def _no_summary(path: str | Path, got: str) -> TableError:
    return TableError(
        f"{str(path)!r} must be the summary of a score, {SUMMARY_FORMAT!r}: got {got[:300]}. "
        "Hint: `xent score TABLE --summary FILE` writes one; `--json` is for other programs."
    )


def _score_of(document: Mapping[str, Any]) -> Score:
    tally = Tally.from_dict(document["tally"])
    names = tuple(map(str, document["names"]))
    by = tuple(map(str, document["by"]))
    classes = {*tally.classes, *(k for pair in tally.guesses for k in pair)}
    classes |= {k for group in tally.questions for k in group}
    if len(set(names)) != len(names) or not classes <= set(range(1, len(names) + 2)):
        raise ValueError(f"classes must be those of {len(names)} different names")
    if len(by) != len(tally.slices):
        raise ValueError(f"there must be slices for each of {len(by)} columns")
    if not tally.whole.summary.n:
        raise ValueError("there must be at least one row with a weight")
    clusters = document["clusters"]
    return Score(
        path=str(document["path"]),
        reading=tuple(map(str, document["reading"])),
        names=names,
        tally=tally,
        by=by,
        floors=tuple(float(floor) for floor in document["floors"]),
        worst=tuple(_row_of(row) for row in document["worst"]),
        allow_unnormalised=_optional(document["allow_unnormalised"]),
        floor=_optional(document["floor"]),
        left_out={str(fault): int(rows) for fault, rows in document["left_out"].items()},
        cluster=None if document["cluster"] is None else str(document["cluster"]),
        clusters=None if clusters is None else ClusterSummary.from_dict(clusters),
    )


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _row_to_dict(row: ScoredRow) -> dict[str, Any]:
    return {
        **vars(row),
        "loss": row.loss if math.isfinite(row.loss) else None,
        "probabilities": dict(row.probabilities),
        "shown": dict(row.shown),
    }


def _row_of(row: Mapping[str, Any]) -> ScoredRow:
    return ScoredRow(**{**row, "loss": math.inf if row["loss"] is None else float(row["loss"])})


def merge(*scores: Score) -> Score:
    """Return the score of the rows of several tables together, from their scores.

    The same as one score of all rows, to rounding, with these differences: of many classes only
    those pairs are counted that were among the 10 000 costliest of a part; the calibration of
    classes beyond 32 is not merged; and the worst rows are those of the parts' lists.

    Parameters
    ----------
    *scores
        Of tables with the same labels, in any order, scored with the same floor and sliced by the
        same columns, each with its explanation.

    Raises
    ------
    OptionError
        If there is none, or they do not fit together.

    See Also
    --------
    xent.scoring.score : with a list of files it scores them as one table.

    Examples
    --------
    >>> from xent.scoring import score
    >>> part = score("examples/predictions.csv")
    >>> merge(part, part).n == 2 * part.n, merge(part, part).log_loss == part.log_loss
    (True, True)
    """
    if not scores:
        raise OptionError("there must be a score to merge: got none. Hint: merge(first, second)")
    _require_explained("a score to merge", *scores)
    first = scores[0]
    for other in scores[1:]:
        _require_alike(first, other)
    tallies = [
        score.tally.renumbered([first.names.index(name) + 1 for name in score.names])
        for score in scores
    ]
    worst = sorted(
        (row for score in scores for row in _told_apart(score, several=len(scores) > 1)),
        key=lambda row: (-row.loss, row.number),
    )
    shown = max(len(score.worst) for score in scores)
    allowed = [s.allow_unnormalised for s in scores if s.allow_unnormalised is not None]
    clusters = [score.clusters for score in scores if score.clusters is not None]
    left_out: dict[str, int] = {}
    for score in scores:
        for fault, rows in score.left_out.items():
            left_out[fault] = left_out.get(fault, 0) + rows
    return replace(
        first,
        path=_together([score.path for score in scores]),
        tally=tallies[0].merge(*tallies[1:]),
        worst=tuple(worst[:shown]),
        allow_unnormalised=max(allowed, default=None),
        left_out=left_out,
        clusters=clusters[0].merge(*clusters[1:]) if clusters else None,
    )


_MERGED = ", merged"


def _together(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more{_MERGED}"


def _told_apart(score: Score, *, several: bool) -> Iterator[ScoredRow]:
    """Return the worst rows, with names that say of which table they are."""
    told = not several or score.path.endswith(_MERGED)
    for row in score.worst:
        yield row if told else replace(row, name=f"{Path(score.path).name}: {row.name}")


def _require_explained(what: str, *scores: Score) -> None:
    """Refuse scores of which a whole could not be explained."""
    for score in scores:
        if not score.explained:
            raise OptionError(
                f"{what} must have its explanation: got that of {score.path!r} without. "
                "Hint: score([first, second], explain=False) scores files as one table."
            )


def _require_alike(first: Score, other: Score) -> None:
    """Refuse scores that do not add up."""
    if set(first.names) != set(other.names):
        odd = sorted(set(first.names) ^ set(other.names))
        raise OptionError(
            f"scores to merge must have the same labels: got {listed(odd)} in one of "
            f"{first.path!r} and {other.path!r} only. "
            "Hint: --classes names the labels of a list column."
        )
    for what, mine, theirs in (
        ("kind of labels, soft or not", bool(first.tally.soft), bool(other.tally.soft)),
        ("floor", first.floor, other.floor),
        ("floors", first.floors, other.floors),
        ("columns of slices", first.by, other.by),
        ("cluster column", first.cluster, other.cluster),
    ):
        if mine != theirs:
            raise OptionError(
                f"scores to merge must have the same {what}: got {mine} of {first.path!r} and "
                f"{theirs} of {other.path!r}. Hint: score both with the same options."
            )
