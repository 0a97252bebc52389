"""Cross-entropy: a measure of distributions, a loss to train with, a score of predictions.

Importing this loads NumPy and nothing heavier; arrays of other libraries are taken as they come.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xent.information import (
    Unsupported,
    conditional_entropy,
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    perplexity,
    surprisal,
    unsupported,
)
from xent.losses import (
    SoftmaxStatistics,
    binary_cross_entropy,
    categorical_cross_entropy,
    linear_softmax_cross_entropy,
    nll,
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_hessian_vector_product,
    sigmoid_cross_entropy_value_and_grad,
    softmax_cross_entropy,
    softmax_cross_entropy_hessian_vector_product,
    softmax_cross_entropy_value_and_grad,
    softmax_statistics,
    squared_error,
    squared_error_value_and_grad,
)

if TYPE_CHECKING:
    from xent.scoring import log_loss

__all__ = [
    "SoftmaxStatistics",
    "Unsupported",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "conditional_entropy",
    "cross_entropy",
    "entropy",
    "js_divergence",
    "kl_divergence",
    "linear_softmax_cross_entropy",
    "log_loss",
    "mutual_information",
    "nll",
    "perplexity",
    "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_hessian_vector_product",
    "sigmoid_cross_entropy_value_and_grad",
    "softmax_cross_entropy",
    "softmax_cross_entropy_hessian_vector_product",
    "softmax_cross_entropy_value_and_grad",
    "softmax_statistics",
    "squared_error",
    "squared_error_value_and_grad",
    "surprisal",
    "unsupported",
]
__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    # These rooms are opened when they are asked for: half of the time of this import otherwise.
    if name == "estimation":
        return importlib.import_module("xent.estimation")
    if name in ("log_loss", "scoring"):
        scoring = importlib.import_module("xent.scoring")
        return scoring if name == "scoring" else scoring.log_loss
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
