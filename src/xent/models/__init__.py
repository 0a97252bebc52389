"""Models that minimise cross-entropy, for scikit-learn's pipelines and searches."""

from __future__ import annotations

from xent.errors import MissingExtraError

try:
    from xent.models.search import Iteration
    from xent.models.softmax_regression import SoftmaxRegression
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] not in {"scipy", "sklearn"}:
        raise
    raise MissingExtraError("xent.models", "models") from error

__all__ = ["Iteration", "SoftmaxRegression"]
