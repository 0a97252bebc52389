"""Scores of predictions: the log loss in memory and on tables, from mergeable summaries."""

from __future__ import annotations

from xent.scoring.in_memory import log_loss
from xent.scoring.summary import LossSummary
from xent.scoring.table import ClassScore, ScoredRow, TableScore, score_table

__all__ = ["ClassScore", "LossSummary", "ScoredRow", "TableScore", "log_loss", "score_table"]
