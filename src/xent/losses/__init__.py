"""The losses: from logits, probabilities or log-probabilities to one number in nats."""

from xent.losses.linear import linear_softmax_cross_entropy
from xent.losses.probabilities import (
    binary_cross_entropy,
    categorical_cross_entropy,
    nll,
    squared_error,
    squared_error_value_and_grad,
)
from xent.losses.sigmoid import (
    sigmoid_cross_entropy,
    sigmoid_cross_entropy_hessian_vector_product,
    sigmoid_cross_entropy_value_and_grad,
)
from xent.losses.softmax import (
    SoftmaxStatistics,
    softmax_cross_entropy,
    softmax_cross_entropy_hessian_vector_product,
    softmax_cross_entropy_value_and_grad,
    softmax_statistics,
)

__all__ = [
    "SoftmaxStatistics",
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "linear_softmax_cross_entropy",
    "nll",
    "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_hessian_vector_product",
    "sigmoid_cross_entropy_value_and_grad",
    "softmax_cross_entropy",
    "softmax_cross_entropy_hessian_vector_product",
    "softmax_cross_entropy_value_and_grad",
    "softmax_statistics",
    "squared_error",
    "squared_error_value_and_grad",
]
