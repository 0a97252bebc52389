r"""Rows whose logits are a product, against a teacher: its likeliest classes, or its own product.

What a teacher adds to `xent.losses.kernels.linear_chunked` is a kernel for rows of logits; the
pieces and the products are those of that page. A row knows its teacher by its number, which stands
where the target of a class index would: ``rows.targets`` says which rows of the teacher's arrays.

**Sparse targets.** The listed classes and all others together are k + 1 outcomes. With x the logits
after softcap and temperature and ``A = log Σ exp(x)`` over the others, which the row kernel finds
where the listed logits are −∞, the loss is the softmax cross-entropy of the k + 1 numbers
``x_1 … x_k, A``: sums of non-negative terms, and the others' mass is summed, never 1 − Σ.

**A teacher's logits.** Divergences are sums of ``a·(e^δ − 1 − δ)``, δ = log b − log a, whose terms
are not negative and add up to KL(a ‖ b) where a and b sum to 1. So nothing cancels where teacher
and student are close, and an error of a normaliser, which is the same in all δ, has no effect but
its square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import array_api_compat.torch as xp
import torch

from xent.arrays import constant, unit_sum_tolerance
from xent.losses import definition
from xent.losses.definition import LogitTransform, Softmax
from xent.losses.kernels import SoftmaxRows, _Record
from xent.losses.kernels.linear_products import (
    PAD,
    Head,
    Plan,
    RowKernel,
    RowResults,
    accumulation_dtype,
    memory,
)

__all__ = [
    "DIVERGENCES",
    "TAILS",
    "Faults",
    "SparseTargets",
    "Target",
    "Teacher",
    "faults_of",
    "sparse_kernel",
    "teacher_kernel",
]

Tensor: TypeAlias = torch.Tensor

TAILS = ("renormalise", "uniform", "bucket")
DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon", "total_variation")
CACHED = 2**17
"""Float64 numbers of a block of logits whose temporaries stay near the processor."""
TEMPORARIES = 16
"""Float64 numbers that are held for each pair of logits while a divergence is computed."""
NEAR = 0.02
"""|δ| below which e^δ − 1 − δ is computed by its series."""
TINY = 2.0**-13
"""A divergence above which what cancels in Σ a·log(a/b) is nothing to float32."""
_PLAIN = LogitTransform(carry=False)


class Target(Protocol):
    """What rows of logits are compared with."""

    def arrays(self) -> tuple[Tensor | None, ...]:
        """Return the arrays, None for those that are not there."""

    def with_arrays(self, arrays: tuple[Tensor | None, ...]) -> Self:
        """Return the target with other arrays in their places."""

    def losses(self, rows: SoftmaxRows) -> Tensor:
        """Return the loss of each row, without its weight, by differentiable operations."""


def _wide(logits: Tensor) -> torch.dtype:
    return torch.float32 if logits.device.type == "mps" else torch.float64


def _looked_at(rows: SoftmaxRows) -> tuple[Tensor, Tensor, Tensor]:
    """Return which rows of the teacher's, whether a row is looked at, and its logits, else 0."""
    which, z = rows.targets[:, 0], rows.logits[..., 0]
    kept = torch.ones_like(which, dtype=torch.bool)
    if rows.row_weight is not None:
        kept = rows.row_weight[:, 0] != 0
    return which, kept, torch.where(kept[:, None], z.to(_wide(z)), 0.0)


def _factor(rows: SoftmaxRows, cotangent: Tensor | None, scale: float, like: Tensor) -> Tensor:
    """Return what the gradient of each row is multiplied by."""
    factor = torch.full_like(like, scale)
    if cotangent is not None:
        factor = factor * cotangent
    return factor if rows.row_weight is None else factor * rows.row_weight[:, 0]


# ---- the teacher's likeliest classes -------------------------------------------------------------


@dataclass(frozen=True)
class SparseTargets(_Record):
    """The classes that a teacher finds likeliest, and a rule for the mass of all others.

    Attributes
    ----------
    ids
        Class indices, int64.                                               (rows, k)
    log_probabilities
        Natural logarithms of their masses; an entry of −∞ is not listed.   (rows, k)
    tail
        One of `TAILS`: masses are divided by their sum; or the rest is spread evenly over the
        other classes that are allowed; or it is the mass of all others as one outcome.
    divergence
        Whether the target's own entropy is subtracted.
    checked
        Whether the arrays are known to have no faults.
    """

    ARRAYS = ("ids", "log_probabilities")

    ids: Any
    log_probabilities: Any
    tail: str = "renormalise"
    divergence: bool = False
    checked: bool = False

    @property
    def copies(self) -> int:
        """Return how many numbers are held for each logit beside those of the row kernel."""
        return 2 if self.tail == "uniform" else 0

    def losses(self, rows: SoftmaxRows) -> Tensor:
        """Return the loss of each row, without its weight, by differentiable operations."""
        which, kept, z = _looked_at(rows)
        e = _entries(self, which, z.shape[1], z.dtype)
        if self.tail == "uniform":
            allowed = z > -torch.inf
            spread = _spread(e, allowed)
            t = spread.dense(e, allowed, z.dtype)
            s = definition.softmax(xp, z, _transform(rows), t)
            losses = definition.softmax_loss(xp, s, t, rows.z_loss)
            losses = spread.completed(losses, divergence=self.divergence)
        else:
            x = _scaled(z, rows)
            listed = torch.zeros_like(z, dtype=torch.bool).scatter(1, e.ids, True)
            others = _log_sum_exp(torch.where(listed, -torch.inf, x))
            outcomes = _outcomes(e, x.gather(1, e.ids), others)
            losses = _losses_of(outcomes, rows.z_loss, divergence=self.divergence)
        if e.wrong is not None:  # multiplied, not selected, so that the derivative is NaN too
            losses = losses * torch.where(e.wrong, torch.nan, 1.0)
        return torch.where(kept, losses, 0.0)


class Faults(NamedTuple):
    """What is wrong with each row of sparse targets.                       (rows,)."""

    undefined: Tensor  # a NaN
    positive: Tensor  # a logarithm above 0
    outside: Tensor  # a class out of range
    repeated: Tensor  # a class listed twice
    empty: Tensor  # no class listed
    heavy: Tensor  # more mass than 1


def _listed(logarithms: Tensor) -> Tensor:
    return ~(logarithms == -torch.inf)


def _tolerance(logarithms: Tensor, classes: int) -> float:
    """Return how far a sum of masses may be from 1: a logarithm ℓ is rounded by |ℓ|·ε."""
    each = torch.finfo(logarithms.dtype).eps + unit_sum_tolerance(0.0, logarithms.shape[-1])
    return each * (1.0 + math.log(max(1, classes)))


def faults_of(ids: Tensor, logarithms: Tensor, classes: int) -> Faults:
    """Return what is wrong with rows of sparse targets."""
    listed, tolerance = _listed(logarithms), _tolerance(logarithms, classes)
    wide = logarithms.detach().to(_wide(logarithms))
    apart = -1 - torch.arange(ids.shape[1], device=ids.device)
    order = torch.where(listed, ids.clamp(min=0), apart).sort(1).values
    return Faults(
        wide.isnan().any(1),
        (wide > tolerance).any(1),
        (listed & ((ids < 0) | (ids >= classes))).any(1),
        (order[:, 1:] == order[:, :-1]).any(1),
        ~listed.any(1),
        wide.exp().sum(1) > 1.0 + tolerance,
    )


class _Entries(NamedTuple):
    """The listed classes of some rows, and what they leave for all others."""

    ids: Tensor  # within range; an entry that is not listed repeats one that is   (rows, k)
    listed: Tensor  # bool                                                         (rows, k)
    source: Tensor  # the entry that one that is not listed repeats                (rows, k)
    mass: Tensor  # 0 for an entry that is not listed                              (rows, k)
    rest: Tensor  # the mass of all others                                         (rows,)
    total: Tensor  # the sum of the masses before the rule for the rest            (rows,)
    tolerance: float
    wrong: Tensor | None  # whether there is a fault, if that is not known         (rows,)


def _entries(targets: SparseTargets, which: Tensor, classes: int, dtype: torch.dtype) -> _Entries:
    """Return the listed classes of some rows by differentiable operations."""
    ids, given = targets.ids[which], targets.log_probabilities[which]
    listed, tolerance = _listed(given), _tolerance(given, classes)
    wrong = None if targets.checked else torch.stack(faults_of(ids, given, classes)).any(0)
    logarithms = given.to(dtype)
    own = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    source = torch.where(listed, own, given.detach().argmax(1, keepdim=True))
    ids = ids.gather(1, source).clamp(0, classes - 1)
    mass = torch.where(listed, torch.exp(torch.where(listed, logarithms, 0.0)), 0.0)
    total = mass.sum(1)
    if targets.tail == "renormalise":
        # not exp, then a quotient: all masses may be too small for a number
        alone = torch.where(listed | ~listed.any(1, keepdim=True), logarithms, -torch.inf)
        alone = torch.where(listed.any(1, keepdim=True), alone, 0.0)
        mass = torch.where(listed, torch.softmax(alone, 1), 0.0)
        rest = torch.zeros_like(total)
    else:
        # what the likeliest leaves is not 1 − m where that would cancel
        top = own == given.detach().argmax(1, keepdim=True)
        left = -torch.expm1(torch.where(top & listed, logarithms, 0.0)).sum(1)
        rest = (left - torch.where(top, 0.0, mass).sum(1)).clamp(min=0.0)
        mass = mass / total.clamp(min=1.0)[:, None]
    return _Entries(ids, listed, source, mass, rest, total, tolerance, wrong)


def _without_others(e: _Entries, nothing: Tensor) -> tuple[Tensor, Tensor]:
    """Return masses and rest; where there is no other class, a rest that is rounding is not one."""
    rounding = nothing & (1.0 - e.total <= e.tolerance)
    mass = torch.where(rounding[:, None], e.mass / e.mass.sum(1, keepdim=True), e.mass)
    return mass, torch.where(rounding, 0.0, e.rest)


def _transform(rows: SoftmaxRows) -> LogitTransform:
    return LogitTransform(rows.temperature, rows.softcap, carry=False)


def _capped(z: Tensor, softcap: float | None) -> Tensor:
    if softcap is None:
        return z
    return torch.where(z == -torch.inf, z, softcap * torch.tanh(z / softcap))


def _scaled(z: Tensor, rows: SoftmaxRows) -> Tensor:
    """Return logits after softcap and temperature."""
    return _capped(z, rows.softcap) / rows.temperature


def _log_sum_exp(x: Tensor) -> Tensor:
    """Return log Σ exp of each row, −∞ for one of −∞ alone, with a derivative there too."""
    nothing = x.amax(1) == -torch.inf
    return torch.where(
        nothing, -torch.inf, torch.logsumexp(torch.where(nothing[:, None], 0.0, x), 1)
    )


class _Outcomes(NamedTuple):
    """The listed classes and all others together, as k + 1 outcomes."""

    s: Softmax
    t: Tensor  # (rows, k + 1)
    x: Tensor  # (rows, k + 1)


def _outcomes(e: _Entries, own: Tensor, others: Tensor) -> _Outcomes:
    """Return the outcomes from the logits of the listed and log Σ exp of all others."""
    mass, rest = _without_others(e, others == -torch.inf)
    x = torch.cat((torch.where(e.listed, own, -torch.inf), others[:, None]), 1)
    t = torch.cat((mass, rest[:, None]), 1)
    return _Outcomes(definition.softmax(xp, x, _PLAIN, t), t, x)


def _losses_of(outcomes: _Outcomes, z_loss: float, *, divergence: bool) -> Tensor:
    """Return the loss of each row from its outcomes."""
    s, t, _ = outcomes
    if not divergence:
        return definition.softmax_loss(xp, s, t, z_loss)
    log_t = torch.where(t > 0, torch.log(torch.where(t > 0, t, 1.0)), -torch.inf)
    losses = _excess(log_t, s.x - s.log_sum).sum(1)
    return losses + z_loss * (s.shift + s.log_sum)[:, 0] ** 2 if z_loss else losses


class _Spread(NamedTuple):
    """The masses of some rows where the rest is spread evenly over all others."""

    mass: Tensor  # of the listed                                       (rows, k)
    share: Tensor  # of each other class                                (rows,)
    others: Tensor  # how many other classes are allowed                (rows,)
    nowhere: Tensor  # whether there is a rest and no class for it      (rows,)

    def dense(self, e: _Entries, allowed: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the mass of each class of each row."""
        t = torch.where(allowed, self.share[:, None].to(dtype), 0.0)
        return t.scatter(1, e.ids, self.mass.gather(1, e.source).to(dtype))

    def completed(self, losses: Tensor, *, divergence: bool) -> Tensor:
        """Return losses, without the masses' entropy if asked; +∞ for a rest that has no class."""
        if divergence:
            each = torch.cat((self.mass, self.share[:, None]), 1)
            times = torch.cat((torch.ones_like(self.mass), self.others[:, None].to(each.dtype)), 1)
            losses = losses + (times * torch.special.xlogy(each, each)).sum(1)
        return losses + torch.where(self.nowhere, torch.inf, 0.0)


def _spread(e: _Entries, allowed: Tensor) -> _Spread:
    """Spread the rest of each row over the classes that are allowed and not listed."""
    others = allowed.sum(1) - (e.listed & allowed.gather(1, e.ids)).sum(1)
    mass, rest = _without_others(e, others == 0)
    share = torch.where(others > 0, rest / others.clamp(min=1), 0.0)
    return _Spread(mass, share, others, (others == 0) & (rest > 0))


def sparse_kernel(targets: SparseTargets, base: RowKernel) -> RowKernel:
    """Return a kernel for rows of logits whose targets are sparse, from one for class indices.

    Its gradient takes the place of the logits where that of `base` does.
    """
    compute = _spread_rows if targets.tail == "uniform" else _outcome_rows

    def kernel(
        rows: SoftmaxRows, *, gradient: bool, cotangent: Tensor | None = None, scale: float = 1.0
    ) -> RowResults:
        logits = rows.logits[..., 0]
        e = _entries(targets, rows.targets[:, 0], logits.shape[1], _wide(logits))
        factor = _factor(rows, cotangent, scale, e.rest)
        if e.wrong is not None:
            factor = factor * torch.where(e.wrong, torch.nan, 1.0)
        plain = replace(rows, row_weight=None, ignore_index=None)
        found = compute(plain, e, targets, base, factor if gradient else None)
        if e.wrong is not None:
            wrong = torch.where(e.wrong, torch.nan, found.losses)
            found = found._replace(losses=wrong)
        return found

    return kernel


def _spread_rows(
    rows: SoftmaxRows, e: _Entries, targets: SparseTargets, base: RowKernel, factor: Tensor | None
) -> RowResults:
    """Compute rows of dense masses, whose gradient is scaled by a factor if there is one."""
    allowed = rows.logits[..., 0] > -torch.inf
    spread = _spread(e, allowed)
    t = spread.dense(e, allowed, rows.logits.dtype)
    del allowed
    found = base(replace(rows, targets=t[..., None]), gradient=factor is not None, cotangent=factor)
    return found._replace(losses=spread.completed(found.losses, divergence=targets.divergence))


def _outcome_rows(
    rows: SoftmaxRows, e: _Entries, targets: SparseTargets, base: RowKernel, factor: Tensor | None
) -> RowResults:
    """Compute rows by their k + 1 outcomes; the row kernel is for all others.

    The gradient at a listed class is its outcome's. At another it is that of all others times the
    class's share of them, which is what the row kernel gives for log Σ exp.
    """
    logits = rows.logits[..., 0]
    z = logits.gather(1, e.ids).to(e.rest.dtype)
    logits.scatter_(1, e.ids, -torch.inf)
    masked = replace(rows, targets=e.ids[:, :1], z_loss=0.0)
    others = base(masked, gradient=False).logsumexp.to(z.dtype)
    undefined = others.isnan()
    nothing = None
    if undefined.device.type != "cpu" or bool(undefined.any()):
        # Where no other class is allowed their sum is 0, not undefined.
        nothing = undefined & (logits.amax(1) == -torch.inf)
        others = torch.where(nothing, -torch.inf, others)
    outcomes = _outcomes(e, _scaled(z, rows), others)
    s, t, x = outcomes
    losses = _losses_of(outcomes, rows.z_loss, divergence=targets.divergence)
    logsumexp = (s.shift + s.log_sum)[:, 0]
    if factor is None:
        return RowResults(losses, logsumexp, None)
    g = definition.softmax_gradient(xp, s, x, t, _PLAIN, rows.z_loss) * factor[:, None]
    slopes = base(masked, gradient=True, cotangent=g[:, -1]).gradient
    assert slopes is not None
    if nothing is not None:
        slopes.masked_fill_(nothing[:, None], 0.0)
    own = (g[:, :-1] * _transform(rows).slope(xp, z)).gather(1, e.source)
    slopes.scatter_(1, e.ids, own.to(slopes.dtype))
    return RowResults(losses, logsumexp, slopes)


# ---- a teacher's logits --------------------------------------------------------------------------


@dataclass(frozen=True)
class Teacher(_Record):
    """A teacher whose logits are a product too, and what is computed between it and the student.

    Attributes
    ----------
    hidden, weight, bias
        As for `xent.losses.kernels.LinearRows`; they are not differentiated.
    temperature, softcap
        Of the teacher's logits.
    divergence
        One of `DIVERGENCES`.
    beta
        The teacher's share of the mixture for Jensen–Shannon.
    """

    ARRAYS = ("hidden", "weight", "bias")

    hidden: Any
    weight: Any
    bias: Any = None
    temperature: float = 1.0
    softcap: float | None = None
    divergence: str = "forward_kl"
    beta: float = 0.5

    @property
    def transform(self) -> LogitTransform:
        """Return what happens to the teacher's logits."""
        return LogitTransform(self.temperature, self.softcap, carry=False)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the teacher's logits."""
        return accumulation_dtype(self.hidden, self.weight, self.bias)

    def losses(self, rows: SoftmaxRows) -> Tensor:
        """Return the divergence of each row, without its weight, by differentiable operations."""
        which, kept, z = _looked_at(rows)
        hidden, weight, bias = (None if a is None else a.to(self.dtype) for a in self.arrays())
        assert hidden is not None
        given = torch.nn.functional.linear(hidden[which], weight, bias).to(z.dtype)
        given = torch.where(kept[:, None], given, 0.0)
        log_q, log_p = _log_softmax(given, self.transform), _log_softmax(z, _transform(rows))
        return torch.where(kept, _divergence(log_q, log_p, self.divergence, self.beta), 0.0)


def _log_softmax(z: Tensor, transform: LogitTransform) -> Tensor:
    """Return log p of each class."""
    x = _capped(z, transform.softcap)
    if transform.temperature != 1.0:  # an offset would cost digits in the division
        x = (x - constant(x.amax(-1, keepdim=True))) / transform.temperature
    return torch.log_softmax(x, -1)


def _excess(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return a·(e^δ − 1 − δ) with δ = log b − log a: terms ≥ 0 of KL(a ‖ b).

    b where a is 0; +∞ where b alone is 0. Where δ is small the form is a·(…), else the same as
    b − a − a·δ, whose exponentials cannot overflow.
    """
    a, b = torch.exp(log_a), torch.exp(log_b)
    nothing = log_a == -torch.inf
    never = (log_b == -torch.inf) & ~nothing
    # a mass that underflows to 0 where b is 0 is +∞ too, and would be 0·∞
    gap = torch.where(nothing | (never & (a == 0)), 0.0, log_b - log_a)
    near = gap.abs() < 0.5
    d = torch.where(near, gap, 0.0)
    series = d * d * 0.5 * (1.0 + d / 3.0 * (1.0 + d / 4.0 * (1.0 + d / 5.0 * (1.0 + d / 6.0))))
    curved = torch.where(d.abs() < NEAR, series, torch.expm1(d) - d)
    terms = torch.where(near, a * curved, b - a - a * gap)
    terms = torch.where(never & (a == 0), torch.inf, terms)
    return torch.where(nothing, b, terms)


def _mixture(log_q: Tensor, log_p: Tensor, beta: float) -> Tensor:
    """Return log(β·q + (1 − β)·p)."""
    q, p = log_q + math.log(beta), log_p + math.log1p(-beta)
    first = q >= p  # one of equals, so that derivatives are those of a smooth function there too
    high, low = torch.where(first, q, p), torch.where(first, p, q)
    nothing = high == -torch.inf
    high = torch.where(nothing, 0.0, high)
    mixed = torch.where(nothing, -torch.inf, high + torch.log1p(torch.exp(low - high)))
    # equals are their own mixture; the rounding error of that has no derivative
    error = torch.where((log_q == log_p) & ~nothing, log_p - mixed, 0.0)
    return mixed + constant(error)


def _divergence(log_q: Tensor, log_p: Tensor, kind: str, beta: float) -> Tensor:
    """Return the divergence of each row between the teacher q and the student p."""
    if kind == "forward_kl":
        return _excess(log_q, log_p).sum(-1)
    if kind == "reverse_kl":
        return _excess(log_p, log_q).sum(-1)
    if kind == "total_variation":
        losses = 0.5 * (torch.exp(log_p) - torch.exp(log_q)).abs().sum(-1)
        # multiplied, so that the derivative is NaN too: NaN has the sign 0
        return losses * torch.where(losses.isnan(), torch.nan, 1.0)
    log_m = _mixture(log_q, log_p, beta)
    parts = _excess(log_q, log_m).sum(-1), _excess(log_p, log_m).sum(-1)
    return beta * parts[0] + (1.0 - beta) * parts[1]


def _slopes(log_q: Tensor, log_p: Tensor, kind: str, beta: float, losses: Tensor) -> Tensor:
    """Return the derivatives of divergences by the student's logits after its transform.

    p − q; p·(log(p/q) − KL); (1 − β)·p·(log(p/m) − KL(p ‖ m)); and ½·p·(s − Σ p·s) with s the sign
    of p − q, 0 where they are equal. NaN for a row that is not defined.
    """
    p = torch.exp(log_p)
    if kind == "forward_kl":
        return p - torch.exp(log_q)
    if kind == "total_variation":
        gap = p - torch.exp(log_q)
        signs = torch.where(gap.isnan(), torch.nan, torch.sign(gap))
        return 0.5 * p * (signs - (p * signs).sum(-1, keepdim=True))
    other, mean, share = log_q, losses, 1.0
    if kind == "jensen_shannon":
        other, share = _mixture(log_q, log_p, beta), 1.0 - beta
        mean = _excess(log_p, other).sum(-1)
    gap = torch.where(log_p == -torch.inf, 0.0, log_p - other)
    return torch.where(log_p == -torch.inf, 0.0, share * p * (gap - mean[:, None]))


def _plainly(
    log_q: Tensor, log_p: Tensor, kind: str, beta: float, *, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return divergences as Σ a·log(a/b), and their slopes if asked; NaN where a class is masked.

    A fraction of the operations of `_divergence` and `_slopes`, for rows that are not `TINY`. The
    slopes of a row whose divergence is NaN mean nothing.
    """
    p, q = torch.exp(log_p), torch.exp(log_q)
    if kind == "forward_kl":
        losses = (log_q - log_p).mul_(q).sum(-1)
        return losses, p.sub_(q) if gradient else None
    if kind == "total_variation":
        gap = p - q
        losses = 0.5 * gap.abs().sum(-1)
        signs = gap.sign_()
        mean = torch.linalg.vecdot(p, signs)
        return losses, signs.sub_(mean[:, None]).mul_(p).mul_(0.5) if gradient else None
    if kind == "reverse_kl":
        gap, share = log_p - log_q, 1.0
        losses = mean = torch.linalg.vecdot(p, gap)
    else:
        log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
        gap, share = log_p - log_m, 1.0 - beta
        mean = torch.linalg.vecdot(p, gap)
        losses = beta * torch.linalg.vecdot(q, log_q - log_m) + share * mean
    return losses, gap.sub_(mean[:, None]).mul_(p).mul_(share) if gradient else None


def _computed(
    log_q: Tensor, log_p: Tensor, teacher: Teacher, *, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return divergences and, if asked, their slopes by the logits after the transform."""
    how = teacher.divergence, teacher.beta
    losses, slopes = _plainly(log_q, log_p, *how, gradient=gradient)
    enough = TINY if losses.dtype == torch.float64 else math.inf
    left = (~(losses >= enough)).nonzero()[:, 0]
    if left.shape[0]:
        pair = log_q[left], log_p[left]
        losses[left] = _divergence(*pair, *how)
        if slopes is not None:
            slopes[left] = _slopes(*pair, *how, losses[left])
    return losses, slopes


def teacher_kernel(teacher: Teacher, plan: Plan) -> RowKernel:
    """Return a kernel for rows of the student's logits; the gradient takes their place.

    It holds the teacher's logits of a piece, and as much again for weights and rows that are
    widened and for the temporaries of a divergence.
    """
    classes, features = teacher.weight.shape
    line = classes // PAD * PAD + PAD
    spare = plan.rows * line
    head = Head(
        teacher.hidden, teacher.weight, teacher.bias, max(1, spare // 4 // max(1, features))
    )
    size = spare // (2 * TEMPORARIES)
    if teacher.weight.device.type == "cpu":
        size = min(CACHED, size)
    step = max(1, size // max(1, classes))
    held: list[Tensor] = []

    def kernel(
        rows: SoftmaxRows, *, gradient: bool, cotangent: Tensor | None = None, scale: float = 1.0
    ) -> RowResults:
        logits = rows.logits[..., 0]
        count = logits.shape[0]
        if not held:
            held.append(memory((max(count, 1) * line,), head.dtype, logits.device))
        given = held[0][: count * line].view(count, line)[:, :classes]
        head.logits(head.rows(teacher.hidden[rows.targets[:, 0]]), 0, classes, given)
        wide, transform = _wide(logits), _transform(rows)
        losses = torch.empty(count, dtype=wide, device=logits.device)
        factor = _factor(rows, cotangent, scale, losses)
        for start in range(0, count, step):
            part = slice(start, start + step)
            z = logits[part].to(wide)
            log_q = _log_softmax(given[part].to(wide), teacher.transform)
            log_p = _log_softmax(z, transform)
            losses[part], slopes = _computed(log_q, log_p, teacher, gradient=gradient)
            if slopes is not None:
                slopes *= factor[part, None]
                if rows.softcap is None:
                    slopes /= rows.temperature
                else:
                    slopes *= transform.slope(xp, z)
                logits[part] = slopes
        return RowResults(losses, losses, logits if gradient else None)

    return kernel
