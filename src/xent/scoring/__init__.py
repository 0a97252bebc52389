"""Scores of predictions: the log loss in memory and on tables, from mergeable summaries."""

from __future__ import annotations

from xent.scoring.in_memory import log_loss
from xent.scoring.summary import LossSummary
from xent.scoring.table import score_table
from xent.scoring.table_score import ClassScore, Confusion, ScoredRow, SliceScore, TableScore

__all__ = [
    "ClassScore",
    "Confusion",
    "LossSummary",
    "ScoredRow",
    "SliceScore",
    "TableScore",
    "log_loss",
    "score_table",
]
