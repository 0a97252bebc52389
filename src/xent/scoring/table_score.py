"""What is said about a table of predictions: its score, computed from the tally of its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from xent.scoring.clusters import ClusterSummary
from xent.scoring.decomposition import Decomposition, decompose
from xent.scoring.histogram import Histogram
from xent.scoring.intervals import Interval, mean_interval
from xent.scoring.reliability import smooth_calibration_error
from xent.scoring.summary import LossSummary
from xent.scoring.tally import Cell, Tally, loss_bin_edges
from xent.units import from_nats

if TYPE_CHECKING:
    from xent.report.drawing import Figure

__all__ = [
    "ClassCalibration",
    "ClassScore",
    "Confusion",
    "LossBin",
    "Score",
    "ScoredRow",
    "SliceScore",
]

_MOST_CONFUSIONS = 100
_OF_THE_EXPLANATION = ("floors", "calibration", "confusions", "slices", "worst")


@dataclass(frozen=True)
class ClassScore:
    """The score of the rows of one true label.

    Attributes
    ----------
    label
        The label's text.
    summary
        The mergeable statistics of its rows.
    correct_weight
        Σw of the rows whose largest probability is this label's.
    share
        The part of the whole loss that these rows make up; None where the whole is 0 or infinite.
    """

    label: str
    summary: LossSummary
    correct_weight: float
    share: float | None

    @property
    def accuracy(self) -> float | None:
        """Weighted share of the rows that were called right; None without rows."""
        weight = self.summary.weight
        return self.correct_weight / weight if weight else None


@dataclass(frozen=True)
class ScoredRow:
    """One row with its loss.

    Attributes
    ----------
    number
        The row's number among the data rows, from 1.
    name
        The value of the id column, or the number.
    label
        The true label.
    p_truth
        The probability that the truth got. Of logits it may be too small for a float, and 0.
    loss
        What the row cost, nats; +∞ where the truth was called impossible.
    probabilities
        Every label's probability.
    shown
        What else was asked to be shown of it: texts by the names of their columns.
    """

    number: int
    name: str
    label: str
    p_truth: float
    loss: float
    probabilities: Mapping[str, float]
    shown: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Confusion:
    """The rows of one true label that were called another, or rightly this one.

    Attributes
    ----------
    label, guess
        The true label, and the likeliest.
    cell
        The statistics of those rows.
    share
        The part of the whole loss that they make up; None where the whole is 0 or infinite.
    """

    label: str
    guess: str
    cell: Cell
    share: float | None


@dataclass(frozen=True)
class SliceScore:
    """The score of the rows of one value of a column.

    Attributes
    ----------
    column, value
        The column, and the value as text; None where it has none.
    cell
        The statistics of those rows.
    share
        The part of the whole loss that they make up; None where the whole is 0 or infinite.
    """

    column: str
    value: str | None
    cell: Cell
    share: float | None


@dataclass(frozen=True)
class ClassCalibration:
    """How the predictions of a class are borne out, as a yes-or-no question of its own.

    Attributes
    ----------
    labels
        The label that means yes; several where the rarest are pooled.
    histogram
        What `xent.scoring.decomposition` and `xent.scoring.reliability` are computed from.
    """

    labels: tuple[str, ...]
    histogram: Histogram

    @cached_property
    def log_loss(self) -> Decomposition:
        """The split of its own log loss, nats: that of a yes or no, not of all labels."""
        return decompose(self.histogram, "log_loss")

    @cached_property
    def brier(self) -> Decomposition:
        """The split of its own Brier score, the mean of (p − y)²."""
        return decompose(self.histogram, "brier")

    @cached_property
    def smooth_calibration_error(self) -> float:
        """How far from calibrated it is on the scale of probabilities, in [0, 1]."""
        return smooth_calibration_error(self.histogram)

    def to_dict(self) -> dict[str, Any]:
        """Return the splits as numbers, texts, booleans and None only."""
        return {
            "labels": list(self.labels),
            "smooth_calibration_error": self.smooth_calibration_error,
            "log_loss": self.log_loss.to_dict(),
            "brier": self.brier.to_dict(),
        }


@dataclass(frozen=True)
class LossBin:
    """The rows whose loss lies between two amounts.

    Attributes
    ----------
    lower, upper
        The amounts, nats; both 0 or both infinite for exactly that.
    rows, weight
        Number and Σw of the rows.
    share
        The part of the whole loss that they make up; None where the whole is 0 or infinite.
    """

    lower: float
    upper: float
    rows: int
    weight: float
    share: float | None


@dataclass(frozen=True)
class Score:
    """The log loss of a table of predictions, and where it comes from. All amounts in nats.

    Without the explanation (`explained`) what tells where it comes from is empty or None: floors,
    `confusions`, `slices`, `loss_bins`, `calibration`, `top_label`, `concentration`, `worst`.

    Attributes
    ----------
    path
        The file.
    reading
        How its columns were read, in sentences with the flag to say otherwise.
    names
        The labels, in the order of the columns.
    tally
        The mergeable statistics that everything else is computed from.
    by
        The columns whose values slice the rows.
    floors
        Floors under every probability for which the score is given too.
    worst
        The rows with the largest loss, infinite ones first.
    allow_unnormalised
        How far from 1 sums were allowed to be; None for rounding only.
    floor
        What P(truth) was raised to where it was less; None for nothing.
    left_out
        Rows without a label or a prediction that were left out, by fault.
    cluster, clusters
        The column that groups rows which belong together, and the totals of its groups; or None.
    """

    path: str
    reading: tuple[str, ...]
    names: tuple[str, ...]
    tally: Tally
    by: tuple[str, ...]
    floors: tuple[float, ...]
    worst: tuple[ScoredRow, ...]
    allow_unnormalised: float | None
    floor: float | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    cluster: str | None = None
    clusters: ClusterSummary | None = None

    @cached_property
    def _whole(self) -> Cell:
        return self.tally.whole

    @property
    def explained(self) -> bool:
        """Whether it was looked at where the loss comes from."""
        return self.tally.explained

    @property
    def summary(self) -> LossSummary:
        """The mergeable statistics of the losses of all rows with a weight."""
        return self._whole.summary

    @property
    def rows(self) -> int:
        """Number of data rows, those of weight 0 too."""
        return self._whole.rows

    @property
    def loose_rows(self) -> int:
        """Rows accepted by `allow_unnormalised` only."""
        return self.tally.loose

    @cached_property
    def classes(self) -> tuple[ClassScore, ...]:
        """The score of each label's rows, in the order of the columns."""
        return tuple(
            ClassScore(
                self._name(k),
                cell.summary,
                cell.correct,
                self._share(cell),
            )
            for k in range(1, len(self.names) + 2)
            if (cell := self.tally.classes.get(k, Cell())).rows or k <= len(self.names)
        )

    def _name(self, k: int) -> str:
        """Return the label of a class; that of all labels without a probability is made up."""
        return self.names[k - 1] if k <= len(self.names) else "(no probability)"

    @cached_property
    def confusions(self) -> tuple[Confusion, ...]:
        """The pairs of a true and a likeliest label, those which cost most first.

        The pairs of infinite loss come before all others; of more than 10 000 pairs there are the
        costliest here.
        """
        found = [
            Confusion(self._name(k), self._name(guess), cell, self._share(cell))
            for (k, guess), cell in self.tally.guesses.items()
            if cell.summary.n
        ]
        return tuple(
            sorted(
                found, key=lambda c: (-c.cell.summary.total, -c.cell.summary.n, c.label, c.guess)
            )
        )

    @cached_property
    def slices(self) -> tuple[SliceScore, ...]:
        """The score of each value of each column of `by`, those which cost most first.

        A standard error of a slice has 8 digits of its loss, fewer than that of all rows.
        """
        return tuple(
            SliceScore(column, value, cell, self._share(cell))
            for column, cells in zip(self.by, self.tally.slices, strict=True)
            for value, cell in sorted(
                cells.items(),
                key=lambda item: (-item[1].summary.total, -item[1].summary.n, str(item[0])),
            )
            if cell.summary.n
        )

    def _share(self, cell: Cell) -> float | None:
        whole = self.summary.total
        return cell.summary.total / whole if math.isfinite(whole) and whole > 0.0 else None

    @cached_property
    def floor_scores(self) -> Mapping[float, float]:
        """The log loss with a floor under every probability, per floor."""
        return {
            floor: self.tally.log_loss_above(floor, self.floors)
            for floor in self.floors
            if self.floor is None or floor >= self.floor
        }

    @property
    def touched_rows(self) -> int:
        """Rows that the floor changed: those in which P(truth) is less."""
        return self.tally.touched

    @cached_property
    def loss_bins(self) -> tuple[LossBin, ...]:
        """The histogram of the losses, 8 bins to each doubling, from the smallest loss up."""
        bins: dict[int, list[Cell]] = {}
        for (number, _), cell in self.tally.losses.items():
            bins.setdefault(number, []).append(cell)
        merged = {number: Cell().merge(*cells) for number, cells in sorted(bins.items())}
        return tuple(
            LossBin(*loss_bin_edges(number), cell.summary.n, cell.summary.weight, self._share(cell))
            for number, cell in merged.items()
            if cell.summary.n
        )

    @cached_property
    def calibration(self) -> tuple[ClassCalibration, ...]:
        """How predictions are borne out: of two classes the second's; of more, if asked, each's."""
        return tuple(
            ClassCalibration(tuple(self._name(k) for k in group), histogram)
            for group, histogram in self.tally.questions.items()
        )

    @property
    def brier_score(self) -> float:
        """Mean of Σ_c (p_c − y_c)² over all classes, in [0, 2]; for two classes twice (p − y)²."""
        return self._whole.brier / self.summary.weight

    @property
    def perplexity(self) -> float:
        """exp(log loss): as many equally likely labels would be as hard to tell."""
        return math.exp(self.log_loss) if self.log_loss < 709.0 else math.inf

    def concentration(self, share: float = 0.01) -> float | None:
        """Return the part of the loss that so large a share of the rows makes up, the worst ones.

        None where the loss is 0, infinite or not explained. Computed from bins of the loss, 8 to
        each doubling: rows at the edge count with the mean of their bin.
        """
        return self.tally.heaviest(share)[0]

    def variance_concentration(self, share: float = 0.01) -> float | None:
        """Return the part of the losses' variance that so large a share of the rows makes up.

        Those rows are the ones of the largest losses, as of `concentration`; with most of the
        variance in few rows the standard error is that of few rows too.
        """
        return self.tally.heaviest(share)[1]

    @property
    def top_label(self) -> Histogram | None:
        """The likeliest label as a yes-or-no prediction (is it the truth?), by its probability."""
        return self.tally.top

    @cached_property
    def top_calibration(self) -> ClassCalibration | None:
        """How the largest probability is borne out, whichever label has it."""
        return None if self.tally.top is None else ClassCalibration((), self.tally.top)

    @property
    def n(self) -> int:
        """Number of rows that have a weight."""
        return self.summary.n

    @property
    def log_loss(self) -> float:
        """Mean of −log P(truth); +∞ when some row with a weight gave the truth 0."""
        return self.summary.log_loss

    @property
    def standard_error(self) -> float | None:
        """Standard error of the log loss, by clusters if there are any.

        None when infinite or for fewer than two rows or clusters.
        """
        if self.clusters is not None:
            return self.clusters.standard_error
        return self.summary.standard_error

    @cached_property
    def interval(self) -> Interval | None:
        """The interval of 95 % of the log loss, with the doubts about it.

        None where the standard error is. `confidence` has other levels.
        """
        return self.confidence(0.95)

    def confidence(self, level: float) -> Interval | None:
        """Return the interval of the log loss of a level, such as 0.99.

        By Student's t; of clusters, where there are any, with one degree less than there are.

        Raises
        ------
        OptionError
            If `level` lies outside [0.5, 1).
        """
        if self.clusters is not None:
            return self.clusters.interval(level)
        return mean_interval(self.summary, level=level, carriers=self.tally.carriers())

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What speaks against taking the score at its word, in sentences."""
        said = []
        if self.infinite_rows:
            said.append(
                f"{self.infinite_rows:,} of {self.n:,} rows gave the truth a probability of 0, "
                "so the log loss is infinite"
            )
        elif self.interval is None:
            said.append("one row says nothing about how sure its loss is")
        else:
            said += [f"the interval is not to be trusted: {d}" for d in self.interval.doubts]
            if not self.explained:
                said.append("whether few rows decide the interval was not looked at")
        if self.floor is not None and self.touched_rows:
            said.append(
                f"the score depends on the floor {self.floor:g}, which {self.touched_rows:,} of "
                f"{self.n:,} rows are raised to"
            )
        if self.left_out:
            said.append(f"rows left out: {sum(self.left_out.values()):,}")
        if self.loose_rows:
            said.append(f"rows that did not sum to 1, and were used as given: {self.loose_rows:,}")
        return tuple(said)

    @property
    def finite_log_loss(self) -> float | None:
        """Mean over the rows with a finite loss; None when there is none."""
        return self.summary.finite_log_loss if self.summary.finite_rows else None

    @property
    def infinite_rows(self) -> int:
        """Number of rows with P(truth) = 0 and a weight."""
        return self.summary.infinite_rows

    @property
    def typical_probability(self) -> float:
        """Geometric mean of P(truth), exp(−log loss)."""
        return math.exp(-self.log_loss)

    @property
    def base_rate_loss(self) -> float:
        """Entropy of the labels' own frequencies: the loss of always predicting those.

        In-sample: no constant prediction scores better on these rows.
        """
        weights = [c.summary.weight for c in self.classes]
        if self.tally.soft:
            weights = list(self.tally.soft.values())
        whole = math.fsum(weights)
        shares = [weight / whole for weight in weights if weight]
        return math.fsum(-share * math.log(share) for share in shares) + 0.0

    @property
    def label_entropy(self) -> float | None:
        """Mean entropy of soft labels, nats: the loss that no prediction removes; None of labels.

        The log loss less this is the mean Kullback–Leibler divergence of the predictions from them.
        """
        return self.tally.soft_entropy / self.summary.weight if self.tally.soft else None

    @property
    def skill(self) -> float | None:
        """1 − loss / base-rate loss: 1 is perfect, 0 no better than the frequencies.

        None where the loss is infinite or the labels are all the same.
        """
        base = self.base_rate_loss
        return 1.0 - self.log_loss / base if base and math.isfinite(self.log_loss) else None

    @property
    def accuracy(self) -> float:
        """Weighted share of rows whose largest probability is the truth's, ties to the first."""
        return math.fsum(c.correct_weight for c in self.classes) / self.summary.weight

    def plot(self, kind: str = "losses", label: str | None = None) -> Figure:
        """Draw the score: a figure that a notebook shows, with `save` and `svg`.

        Parameters
        ----------
        kind
            ``"losses"``: how many rows lost how much, and what part of the loss they are.
            ``"reliability"``: what came true where that was predicted.
            ``"decomposition"``: how much of the loss is miscalibration.
        label
            Which label the last two ask about, as a yes or no; by default the second of two, or
            whether the likeliest is right.

        Raises
        ------
        OptionError
            If there is no such figure, the label was not looked at by itself, or the score is not
            explained.
        MissingExtraError
            If matplotlib is not installed.

        See Also
        --------
        xent.report.render_page : all figures on a page.

        Examples
        --------
        >>> from xent.scoring import score
        >>> score("examples/predictions.csv").plot("reliability").svg[:4]
        '<svg'
        """
        from xent.report.score_plots import score_figure

        return score_figure(self, kind, label)

    def _repr_html_(self) -> str:
        from xent.report.notebook import score_html

        return score_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the score as numbers, texts and None only.

        What is not finite is None, and so is what was not looked at.
        """
        error = self.standard_error
        document = {
            "file": self.path,
            "reading": list(self.reading),
            "explained": self.explained,
            "rows": self.rows,
            "n": self.n,
            "log_loss_nats": _finite(self.log_loss),
            "log_loss_bits": _finite(from_nats(self.log_loss, "bits")),
            "standard_error_nats": error,
            "standard_error_bits": None if error is None else from_nats(error, "bits"),
            "interval_nats": None if self.interval is None else self.interval.to_dict(),
            "clusters": None if self.clusters is None else self.clusters.clusters,
            "warnings": list(self.warnings),
            "typical_probability": self.typical_probability,
            "base_rate_loss_nats": self.base_rate_loss,
            "label_entropy_nats": self.label_entropy,
            "skill": self.skill,
            "accuracy": self.accuracy,
            "brier_score": self.brier_score,
            "perplexity": _finite(self.perplexity),
            "worst_1_percent_share": self.concentration(0.01),
            "worst_1_percent_variance_share": self.variance_concentration(0.01),
            "infinite_rows": self.infinite_rows,
            "finite_log_loss_nats": self.finite_log_loss,
            "floor": self.floor,
            "touched_rows": self.touched_rows,
            "left_out": dict(self.left_out),
            "floors": [
                {"floor": floor, "log_loss_nats": loss} for floor, loss in self.floor_scores.items()
            ],
            "unnormalised_rows": self.loose_rows,
            "allow_unnormalised": self.allow_unnormalised,
            "classes": [
                {
                    "label": c.label,
                    "n": c.summary.n,
                    "weight": c.summary.weight,
                    "log_loss_nats": _finite(c.summary.log_loss),
                    "infinite_rows": c.summary.infinite_rows,
                    "share": c.share,
                    "accuracy": c.accuracy,
                }
                for c in self.classes
            ],
            "top_label": None if self.top_calibration is None else self.top_calibration.to_dict(),
            "calibration": [calibration.to_dict() for calibration in self.calibration],
            "confusions": [
                {
                    "label": c.label,
                    "guess": c.guess,
                    "n": c.cell.summary.n,
                    "weight": c.cell.summary.weight,
                    "log_loss_nats": _finite(c.cell.summary.log_loss),
                    "share": c.share,
                }
                for c in self.confusions[:_MOST_CONFUSIONS]
            ],
            "slices": [
                {
                    "column": s.column,
                    "value": s.value,
                    "n": s.cell.summary.n,
                    "weight": s.cell.summary.weight,
                    "log_loss_nats": _finite(s.cell.summary.log_loss),
                    "standard_error_nats": s.cell.summary.standard_error,
                    "infinite_rows": s.cell.summary.infinite_rows,
                    "share": s.share,
                    "accuracy": s.cell.accuracy,
                }
                for s in self.slices
            ],
            "worst": [
                {
                    "row": row.number,
                    "name": row.name,
                    "label": row.label,
                    "p_truth": row.p_truth,
                    "loss_nats": _finite(row.loss),
                    "probabilities": dict(row.probabilities),
                    "shown": dict(row.shown),
                }
                for row in self.worst
            ],
        }
        return document if self.explained else document | dict.fromkeys(_OF_THE_EXPLANATION)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
