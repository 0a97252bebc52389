"""Models that minimise cross-entropy, for scikit-learn's pipelines and for tables."""

from __future__ import annotations

from xent.errors import MissingExtraError

try:
    from xent.models.fit_summary import FitSummary, HeldOut, Validation
    from xent.models.search import Iteration
    from xent.models.softmax_regression import SoftmaxRegression
    from xent.models.table_fit import fit_table
    from xent.models.table_model import TableModel
    from xent.models.table_predict import Predictions, predict_table
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] not in {"scipy", "sklearn"}:
        raise
    raise MissingExtraError("xent.models", "models") from error

__all__ = [
    "FitSummary",
    "HeldOut",
    "Iteration",
    "Predictions",
    "SoftmaxRegression",
    "TableModel",
    "Validation",
    "fit_table",
    "predict_table",
]
