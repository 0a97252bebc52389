"""Scores of predictions: the log loss in memory and on tables, from mergeable summaries."""

from __future__ import annotations

from xent.scoring.comparison import ComparedModel, Comparison, Difference, DifferingRow
from xent.scoring.in_memory import log_loss
from xent.scoring.intervals import Interval
from xent.scoring.paired import compare
from xent.scoring.reading import Columns
from xent.scoring.score_file import merge, read_summary, summary_document
from xent.scoring.summary import LossSummary
from xent.scoring.table import score
from xent.scoring.table_score import (
    ClassCalibration,
    ClassScore,
    Confusion,
    LossBin,
    Score,
    ScoredRow,
    SliceScore,
)

__all__ = [
    "ClassCalibration",
    "ClassScore",
    "Columns",
    "ComparedModel",
    "Comparison",
    "Confusion",
    "Difference",
    "DifferingRow",
    "Interval",
    "LossBin",
    "LossSummary",
    "Score",
    "ScoredRow",
    "SliceScore",
    "compare",
    "log_loss",
    "merge",
    "read_summary",
    "score",
    "summary_document",
]
