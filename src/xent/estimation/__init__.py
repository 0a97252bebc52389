"""Entropies, divergences and information from samples or counts, with what is known of their error.

`xent.information` measures distributions; this room estimates the measures of distributions that
only samples are known of. Every estimate is a record that names its estimator, its smoothing and
the numbers of observations, and says why where it comes without an interval.
"""

from __future__ import annotations

from xent.estimation.dependence import (
    MutualInformationEstimate,
    mutual_information_from_counts,
    mutual_information_from_samples,
)
from xent.estimation.divergence import (
    DivergenceEstimate,
    cross_entropy_from_counts,
    cross_entropy_from_samples,
    kl_divergence_from_counts,
    kl_divergence_from_samples,
)
from xent.estimation.entropy import (
    EntropyEstimate,
    entropy_from_counts,
    entropy_from_samples,
)
from xent.estimation.permutation import (
    PermutationTest,
    permutation_test_from_counts,
    permutation_test_from_samples,
)

__all__ = [
    "DivergenceEstimate",
    "EntropyEstimate",
    "MutualInformationEstimate",
    "PermutationTest",
    "cross_entropy_from_counts",
    "cross_entropy_from_samples",
    "entropy_from_counts",
    "entropy_from_samples",
    "kl_divergence_from_counts",
    "kl_divergence_from_samples",
    "mutual_information_from_counts",
    "mutual_information_from_samples",
    "permutation_test_from_counts",
    "permutation_test_from_samples",
]
