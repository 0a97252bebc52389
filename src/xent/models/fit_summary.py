"""How a fit went: a record that stands in the model's file and that reports are made of."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Dropped", "FitSummary", "HeldOut", "Validation"]


@dataclass(frozen=True)
class Validation:
    """How a model is measured on rows that it has not seen.

    Rows are shuffled and dealt by class, so each part has each class's share of them. Means,
    scales, categories and coefficients come from the other parts alone.

    Attributes
    ----------
    folds
        Cross-validation: every row is predicted once, by the model of the other parts. 0 for none.
    holdout
        Instead of folds: the share of the rows that is predicted by the model of the others.
    seed
        Of the shuffle.
    """

    folds: int = 5
    holdout: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class HeldOut:
    """The log loss of rows that the model did not see.

    Attributes
    ----------
    validation
        How they were chosen.
    rows
        How many there were.
    log_loss, standard_error
        Their mean loss in nats, and its standard error, None for fewer than two rows.
    unseen_rows
        Rows with a category that no training row had: 0 in all its columns of the matrix.
    """

    validation: Validation
    rows: int
    log_loss: float
    standard_error: float | None
    unseen_rows: int


@dataclass(frozen=True)
class Dropped:
    """A column that says nothing, and why."""

    column: str
    reason: str


@dataclass(frozen=True)
class FitSummary:
    """How a fit went. Losses are in nats a row.

    Attributes
    ----------
    table
        The file.
    rows, left_out
        Rows that counted, and rows of weight 0.
    class_rows, class_shares
        Of each class the rows, and the share of all weight.
    dropped
        Columns that are no features because they say nothing.
    base_rate_loss
        The loss of always predicting the class shares: the entropy of the target.
    held_out
        The loss of rows that the model did not see, or None if it was not asked for.
    training_loss
        The loss of the rows that the model was fitted to.
    steps, seconds
        Of the last fit, on all rows.
    converged
        Whether that and all others reached their tolerance.
    history
        Its objective, penalty included, at the start and after each step.
    estimator
        The classifier and its options.
    xent
        The version that fitted it.
    """

    table: str
    rows: int
    left_out: int
    class_rows: tuple[int, ...]
    class_shares: tuple[float, ...]
    dropped: tuple[Dropped, ...]
    base_rate_loss: float
    held_out: HeldOut | None
    training_loss: float
    steps: int
    seconds: float
    converged: bool
    history: tuple[float, ...]
    estimator: str
    xent: str
