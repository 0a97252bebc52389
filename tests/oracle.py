"""What is exact: every formula once more in arithmetic of 600 bits, written for clarity alone."""

from __future__ import annotations

import mpmath as mp
import numpy as np

mp.mp.prec = 600  # so that 1 + e⁻²⁰⁰ keeps its digits
INF = mp.mpf("inf")


def exact(x):
    return mp.mpf(float(x))


def xlogy(p, q):
    """Return p·log q with 0·log 0 = 0."""
    if p == 0:
        return mp.mpf(0)
    return p * mp.log(q) if q != 0 else -INF


def entropy(p):
    return -mp.fsum(xlogy(a, a) for a in map(exact, p))


def cross_entropy(p, q):
    return -mp.fsum(xlogy(exact(a), exact(b)) for a, b in zip(p, q, strict=True))


def kl_divergence(p, q):
    return cross_entropy(p, q) - entropy(p)


def js_divergence(p, q):
    m = [(exact(a) + exact(b)) / 2 for a, b in zip(p, q, strict=True)]
    terms = [
        xlogy(exact(a), exact(a) / c) / 2 if c else mp.mpf(0)
        for side in (p, q)
        for a, c in zip(side, m, strict=True)
    ]
    return mp.fsum(terms)


def mutual_information(joint):
    x = [mp.fsum(map(exact, row)) for row in joint]
    y = [mp.fsum(map(exact, column)) for column in np.transpose(joint)]
    return mp.fsum(
        xlogy(exact(a), exact(a) / (x[i] * y[j])) if a else mp.mpf(0)
        for i, row in enumerate(joint)
        for j, a in enumerate(row)
    )


def conditional_entropy(joint):
    x = [mp.fsum(map(exact, row)) for row in joint]
    return -mp.fsum(
        xlogy(exact(a), exact(a) / x[i]) if a else mp.mpf(0)
        for i, row in enumerate(joint)
        for a in row
    )


def masses(target, classes, allowed, label_smoothing=0.0, class_weight=None):
    """Return the target's mass on each class: smoothed over the allowed ones, then weighted."""
    if np.ndim(target) == 0:
        t = [mp.mpf(int(j == int(target))) for j in range(classes)]
    else:
        t = [exact(a) for a in target]
    if label_smoothing:
        e, k = exact(label_smoothing), sum(allowed)
        t = [(1 - e) * a + (e / k if ok else 0) for a, ok in zip(t, allowed, strict=True)]
    if class_weight is not None:
        t = [a * exact(w) for a, w in zip(t, class_weight, strict=True)]
    return t


def softmax_row(
    logits,
    target,
    *,
    temperature=1.0,
    softcap=None,
    z_loss=0.0,
    label_smoothing=0.0,
    class_weight=None,
):
    """Return loss, gradient, probabilities and masses of one row."""
    allowed = [z != -np.inf for z in np.asarray(logits, dtype=np.float64)]
    temperature = exact(temperature)
    z = [exact(a) if ok else -INF for a, ok in zip(logits, allowed, strict=True)]
    slope = [1 / temperature] * len(z)
    if softcap is not None:
        c = exact(softcap)
        slope = [
            mp.sech(a / c) ** 2 / temperature if ok else mp.mpf(0)
            for a, ok in zip(z, allowed, strict=True)
        ]
        z = [c * mp.tanh(a / c) if ok else a for a, ok in zip(z, allowed, strict=True)]
    x = [a / temperature if ok else a for a, ok in zip(z, allowed, strict=True)]
    top = max(x)
    e = [mp.exp(a - top) if ok else mp.mpf(0) for a, ok in zip(x, allowed, strict=True)]
    total = mp.fsum(e)
    lse = top + mp.log(total)
    p = [a / total for a in e]
    t = masses(target, len(z), allowed, label_smoothing, class_weight)
    weight = mp.fsum(t)
    loss = mp.fsum(a * (lse - b) if a else mp.mpf(0) for a, b in zip(t, x, strict=True))
    loss += exact(z_loss) * weight * lse**2
    gradient = [
        (weight * a - b + 2 * exact(z_loss) * weight * lse * a) * s
        for a, b, s in zip(p, t, slope, strict=True)
    ]
    return loss, gradient, p, t


def sigmoid_entry(z, t, *, pos_weight=1.0, label_smoothing=0.0):
    """Return loss and gradient of one entry."""
    z, e = exact(z), exact(label_smoothing)
    yes = (exact(t) * (1 - e) + e / 2) * exact(pos_weight)
    no = (1 - exact(t)) * (1 - e) + e / 2
    if mp.isinf(z):
        wrong = no if z > 0 else yes
        return (INF if wrong else mp.mpf(0)), (no if z > 0 else -yes)
    loss = yes * mp.log1p(mp.exp(-z)) + no * mp.log1p(mp.exp(z))
    return loss, no / (1 + mp.exp(-z)) - yes / (1 + mp.exp(z))


def ulps(value, truth, dtype):
    """Return the error of a value in units of the last place of the true value in `dtype`."""
    value = float(value)
    if mp.isinf(truth) or np.isinf(value):
        return 0.0 if value == float(truth) else np.inf
    if np.isnan(value):
        return np.inf
    with np.errstate(over="ignore"):
        unit = np.spacing(np.asarray(abs(float(truth)), dtype=dtype))
    return float(abs(mp.mpf(value) - truth) / mp.mpf(float(unit)))
