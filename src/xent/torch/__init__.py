"""The losses of PyTorch, drop-in: change `torch.nn.functional` or `torch.nn` to `xent.torch`.

Same names, positional arguments, defaults, meanings, returned dtypes and error types; results are
rounded once from the accurate value, and more is offered by keyword. docs/semantics.md lists each
difference.
"""

from xent.torch.distillation import linear_distillation, linear_sparse_cross_entropy
from xent.torch.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_div,
    nll_loss,
    softmax_statistics,
)
from xent.torch.linear import (
    LinearCrossEntropyLoss,
    LinearSoftmaxStatistics,
    linear_cross_entropy,
    linear_softmax_statistics,
)
from xent.torch.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    KLDivLoss,
    NLLLoss,
)

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "KLDivLoss",
    "LinearCrossEntropyLoss",
    "LinearSoftmaxStatistics",
    "NLLLoss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "kl_div",
    "linear_cross_entropy",
    "linear_distillation",
    "linear_softmax_statistics",
    "linear_sparse_cross_entropy",
    "nll_loss",
    "softmax_statistics",
]
