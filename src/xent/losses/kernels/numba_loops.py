"""The innermost loops of the CPU kernels for rows, as vectors.

Two families: those named `block_…` run over a block of neighbouring rows, whose logits stand class
by class in scratch memory, so that a vector holds one class of several rows. The others run along
the classes of one long row.

Exponentials are exp(z/T)·2^−N with an integer N for each row, split as z = n·(T·log 2) + r. Nothing
is subtracted from z before it is rounded to an exponent and a remainder, so that neither a common
offset nor a wide gap costs a digit. Sums are float64, of sums of TOGETHER float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from xent.losses.kernels.numba_arithmetic import LN2
from xent.losses.kernels.numba_vectors import (
    DOUBLE,
    FLOAT,
    INT,
    LANES,
    LONG,
    Memory,
    Vector,
    all_of,
    count,
    fma,
    joined,
    larger,
    number,
    of_lanes,
    spread,
    transposed,
)

__all__ = [
    "LANES",
    "block_exponentials",
    "block_losses",
    "block_of_classes",
    "block_of_rows",
    "block_slopes",
    "block_to_classes",
    "block_to_rows",
    "block_tops",
    "exp_single",
    "log1p_single",
    "scaled",
    "shift_of",
    "soft_slopes",
    "soft_terms",
    "sweep",
    "top_of",
]

integer, single, double = types.int64, types.float32, types.float64
Shift = types.UniTuple(single, 2)
Constants = types.UniTuple(single, 9)
MAGIC = 1.5 * 2.0**23
"""Added and subtracted, it rounds float32 to an integer, which then stands in the lowest bits."""
MAGIC_DOUBLE, MAGIC_DOUBLE_BITS = 1.5 * 2.0**52, 0x4338000000000000
ROOT_HALF_BITS = 0x3FE6A09E667F3BCD
TOGETHER = 4
"""Vectors that are computed step by step with each other."""
GROUP = TOGETHER * LANES
AHEAD = 1024
"""Logits between one that is asked for and the one that is read. The processor reads ahead by
itself, but not into the next page of memory."""


def _spans(
    start: Vector, stop: Vector, body: Callable[[Vector, int, int], None], together: int = TOGETHER
) -> None:
    """Write a loop over [start, stop): by several vectors, then by one, then by numbers."""
    for units, lanes in ((together, LANES), (1, LANES), (1, 1)):

        def one(i: Vector, _: Any, units: int = units, lanes: int = lanes) -> list[Vector]:
            body(i, units, lanes)
            return []

        start, _ = count(start, stop, units * lanes, [], one)


def _sum_of(vectors: list[Vector]) -> Vector:
    """Write the sum of vectors: of pairs, of pairs of pairs, … ."""
    while len(vectors) > 1:
        vectors = [a + b for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def _largest(vectors: list[Vector]) -> Vector:
    """Write the maximum of vectors; NaN is passed over."""
    first, *others = vectors
    for vector in others:
        first = larger(vector, first)
    return first


def _sum_of_lanes(vector: Vector) -> Vector:
    total = vector.lane(0)
    for i in range(1, vector.lanes):
        total = total + vector.lane(i)
    return total


# ---- exponentials --------------------------------------------------------------------------------


def _members(builder: Any, pack: Any, lanes: int) -> list[Vector]:
    return [
        spread(Vector(builder, builder.extract_value(pack, k)), lanes)
        for k in range(pack.type.count)
    ]


def _exponentials(
    zs: list[Vector], floors: list[Vector], magics: list[Vector], constants: list[Vector]
) -> list[Vector]:
    """Write exp(z/T)·2^−N of several vectors, step by step."""
    periods, high, low, *terms = constants
    # NaN is not below the floor and stays.
    zs = [f.where(z.compare("<", f), z) for z, f in zip(zs, floors, strict=True)]
    biased = [fma(z, periods, m) for z, m in zip(zs, magics, strict=True)]
    turns = [m - b for m, b in zip(magics, biased, strict=True)]  # −n
    rests = [fma(n, high, z) for n, z in zip(turns, zs, strict=True)]
    rests = [fma(n, low, r) for n, r in zip(turns, rests, strict=True)]
    powers = [(b.bits(INT) << 23).bits(FLOAT) for b in biased]
    values = [fma(terms[-1], r, terms[-2]) for r in rests]
    for term in reversed(terms[:-2]):
        values = [fma(v, r, term) for v, r in zip(values, rests, strict=True)]
    values = [fma(v, r, 1.0) for v, r in zip(values, rests, strict=True)]
    return [v * p for v, p in zip(values, powers, strict=True)]


LARGEST = 2.0**18
"""Powers of two from which float32 has too few digits left for the fraction of an exponent."""
LIFT = 64.0
"""Powers of two by which exponentials are raised, so that what is tiny beside the likeliest class
keeps its digits: a subnormal loss, a normal gradient under a large weight."""


def _shift(top: Vector, constants: list[Vector]) -> tuple[Vector, Vector]:
    """Write the shift with which a row's largest exponential is about 2^LIFT."""
    periods, high, *_ = constants
    turns = fma(top, periods, MAGIC) - MAGIC
    return (turns - (127.25 + LIFT)) * high, turns.subtracted_from(MAGIC) + (127.0 + LIFT)


@intrinsic
def shift_of(typing: Any, top: Any, constants: Any) -> Any:
    """Return what `exp_single` wants to know of a row with that maximum, and whether it will do.

    It will not for an infinite maximum nor for NaN, nor beyond LARGEST powers of two.
    """
    returned = types.Tuple((Shift, types.boolean))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        top, own = Vector(builder, args[0]), _members(builder, args[1], 1)
        shift = context.make_tuple(builder, Shift, [v.value for v in _shift(top, own)])
        turns = fma(top, own[0], MAGIC) - MAGIC
        size = turns.where(turns.compare(">", 0.0), turns.subtracted_from(0.0))
        return context.make_tuple(builder, returned, [shift, size.compare("<", LARGEST).value])

    return returned(single, Constants), generate


@intrinsic
def exp_single(typing: Any, z: Any, shift: Any, constants: Any) -> Any:
    """Return exp(z/T)·2^−N to 1 ulp, for z/T·log₂e in [−∞, 2^20]; below 2^−127 it is 0.

    `shift` is ``(floor, magic)``: a little under (N − 127)·T·log 2, and 1.5·2²³ + 127 − N, to
    which a product is added so that the exponent's bits stand in the lowest bits of the sum.
    `constants` is ``(log₂e/T, high, low, terms)``, with T·log 2 = high + low and the coefficients
    of (exp(r/T) − 1)/r on |r| ≤ T·log(2)/2, lowest first.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        z, shift, constants = args
        floor, magic = _members(builder, shift, 1)
        made = _exponentials(
            [Vector(builder, z)], [floor], [magic], _members(builder, constants, 1)
        )
        return made[0].value

    return single(single, Shift, Constants), generate


def _log1p(r: Vector) -> Vector:
    """Write log(1 + r) to 1e-9 for 0 ≤ r ≤ 2^20; NaN for NaN and for ∞."""
    u = r + 1.0
    # u = 2^k·(1 + f) with 1 + f in [√½, √2). As u ≥ 1, k ≥ 0 and a logical shift does.
    k = (u.bits(LONG) - ROOT_HALF_BITS) >> 52
    f = (u.bits(LONG) - (k << 52)).bits(DOUBLE) - 1.0
    s = f / (f + 2.0)
    z = s * s
    series = fma(z, 2.0 / 11, 2.0 / 9)
    for term in (2.0 / 7, 2.0 / 5, 2.0 / 3):
        series = fma(series, z, term)
    square = f * f * 0.5
    lost = r - (u - 1.0)
    log = (k + MAGIC_DOUBLE_BITS).bits(DOUBLE) - MAGIC_DOUBLE
    log = log * LN2 + (f - (square - (s * (square + z * series) + lost)))
    return log + (u - u)


@intrinsic
def log1p_single(typing: Any, r: Any) -> Any:
    """Return log(1 + r) to 1e-9 for 0 ≤ r ≤ 2^20, in float64; NaN for NaN and for ∞."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _log1p(Vector(builder, args[0])).value

    return double(double), generate


# ---- along the classes of a row ------------------------------------------------------------------


@intrinsic
def sweep(
    typing: Any, kind: Any, z: Any, following: Any, n: Any, shift: Any, constants: Any, top: Any,
    e: Any, waiting: Any, g: Any, start: Any, stop: Any, factor: Any,
) -> Any:  # fmt: skip
    """Compute a row's exponentials; find another row's maximum; write a third row's gradient.

    One loop does all three, so that memory and arithmetic are always busy: the processor reads
    logits ahead and writes gradients behind while it computes what is in its caches.

    Parameters
    ----------
    z, following
        The row of n classes, and the one that is next.
    top, e
        The row's maximum, and where its exponentials are to be kept.
    waiting, g, start, stop, factor
        From element `start` on, whose address must be a multiple of LANES elements, as much of
        ``g[start:stop] = waiting·factor`` is written past the caches as whole steps can.

    Returns
    -------
    tuple
        Σ of the exponentials of all classes but those of the maximum, so that none of their digits
        is lost to it; how many have the maximum; the maximum of the following row (NaN passed
        over); and the element of the gradient that is not written yet. The sum is one in float64
        of sums of TOGETHER exponentials in float32: of j, j + LANES, …, and of single ones at the
        end of the row.
    """
    returned = types.Tuple((double, types.int32, single, integer))

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, z, following, n, shift, constants, top, e, waiting, g, start, stop, factor = args
        logits, ahead = Memory(builder, z, kind), Memory(builder, following, kind)
        kept, behind = Memory(builder, e), Memory(builder, waiting)
        gradient = Memory(builder, g, kind)
        n, top, start, stop, factor = (Vector(builder, v) for v in (n, top, start, stop, factor))

        def body(units: int, lanes: int, writes: bool) -> Any:
            floor, magic = _members(builder, shift, lanes)
            own = _members(builder, constants, lanes)
            best, by = spread(top, lanes), spread(factor, lanes)
            nothing = Vector(builder, all_of(best.value.type, 0.0))

            def step(j: Vector, carried: list[Vector]) -> list[Vector]:
                *sums, times, one, two = carried
                tops = [one, two]
                places = [j + lanes * u for u in range(units)]
                if units > 1:
                    ahead.prefetch(j + AHEAD, GROUP)
                zs = [logits.load(p, lanes) for p in places]
                made = _exponentials(zs, [floor] * units, [magic] * units, own)
                for u, (place, value) in enumerate(zip(places, made, strict=True)):
                    kept.store(place, value)
                    tops[u % 2] = larger(ahead.load(place, lanes), tops[u % 2])
                    if writes:
                        gradient.store(
                            place + start, behind.load(place + start, lanes) * by, past=True
                        )
                same = [z.compare("==", best) for z in zs]
                for mask in same:
                    times = times.more_where(mask)
                rest = _sum_of([nothing.where(s, v) for s, v in zip(same, made, strict=True)])
                sums = [s + d for s, d in zip(sums, rest.doubles(), strict=True)]
                return [*sums, times, *tops]

            return step

        zero = Vector(builder, all_of(of_lanes(DOUBLE, LANES // 2), 0.0))
        none = Vector(builder, all_of(of_lanes(INT, LANES), 0))
        least = Vector(builder, all_of(of_lanes(FLOAT, LANES), float("-inf")))
        room = stop - start
        limit = room.where(room.compare("<", n), n)
        j, carried = count(
            number(builder, 0),
            limit,
            GROUP,
            [zero, zero, none, least, least],
            body(TOGETHER, LANES, True),
        )
        written = j + start
        j, carried = count(j, n, GROUP, carried, body(TOGETHER, LANES, False))
        j, carried = count(j, n, LANES, carried, body(1, LANES, False))
        *sums, times, one, two = carried
        alone = [_sum_of_lanes(v) for v in (_sum_of(sums), times)]
        one, two = (_largest([v.lane(i) for i in range(LANES)]) for v in (one, two))
        _, (total, times, one, two) = count(j, n, 1, [*alone, one, two], body(1, 1, False))
        values = [total, times, larger(one, two), written]
        return context.make_tuple(builder, returned, [v.value for v in values])

    return returned(
        kind,
        integer,
        integer,
        integer,
        Shift,
        Constants,
        single,
        integer,
        integer,
        integer,
        integer,
        integer,
        single,
    ), generate


@intrinsic
def top_of(typing: Any, kind: Any, z: Any, n: Any) -> Any:
    """Return a row's maximum; NaN is passed over, as `sweep` does, and −∞ that of nothing."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, z, n = args
        logits, n = Memory(builder, z, kind), Vector(builder, n)

        def body(j: Vector, tops: list[Vector]) -> list[Vector]:
            lanes = tops[0].lanes
            values = [logits.load(j + lanes * u, lanes) for u in range(len(tops))]
            return [larger(v, t) for v, t in zip(values, tops, strict=True)]

        least = Vector(builder, all_of(of_lanes(FLOAT, LANES), float("-inf")))
        j, tops = count(number(builder, 0), n, GROUP, [least] * TOGETHER, body)
        j, (top,) = count(j, n, LANES, [_largest(tops)], body)
        _, (top,) = count(j, n, 1, [_largest([top.lane(i) for i in range(LANES)])], body)
        return top.value

    return single(kind, integer, integer), generate


@intrinsic
def scaled(
    typing: Any, kind: Any, e: Any, g: Any, start: Any, stop: Any, factor: Any, past: Any
) -> Any:
    """Write ``g[start:stop] = e·factor``; past the caches where `past`: `start` is aligned then."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, e, g, start, stop, factor, past = args
        source, to = Memory(builder, e), Memory(builder, g, kind)
        start, stop, factor = (Vector(builder, v) for v in (start, stop, factor))

        def write(through: bool) -> Callable[[Vector, int, int], None]:
            def body(j: Vector, units: int, lanes: int) -> None:
                for u in range(units):
                    value = source.load(j + lanes * u, lanes) * spread(factor, lanes)
                    to.store(j + lanes * u, value, past=through and lanes > 1)

            return body

        with builder.if_else(past) as (then, otherwise):
            with then:
                _spans(start, stop, write(True))
            with otherwise:
                _spans(start, stop, write(False))
        return context.get_dummy_value()

    return types.void(kind, integer, integer, integer, integer, single, types.boolean), generate


@intrinsic
def soft_terms(typing: Any, kind: Any, z: Any, t: Any, n: Any, top: Any, weights: Any) -> Any:
    """Return Σ w·t·(m − z), with 0·∞ = 0, and Σ w·t, in float64.

    The targets' masses `t` are float32, the classes' `weights` float64, or at 0 for ones.
    """
    returned = types.UniTuple(double, 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, z, t, n, top, weights = args
        logits, masses = Memory(builder, z, kind), Memory(builder, t)
        weight_of, n = Memory(builder, weights, double), Vector(builder, n)
        results = [cgutils.alloca_once(builder, DOUBLE) for _ in range(2)]

        def body(lanes: int, weighted: bool) -> Any:
            tops = spread(Vector(builder, top), lanes).doubles()
            half = max(1, lanes // 2)

            def step(j: Vector, carried: list[Vector]) -> list[Vector]:
                shares = masses.load(j, lanes).doubles()
                if weighted:
                    shares = [s * weight_of.load(j + half * k, half) for k, s in enumerate(shares)]
                gaps = [m - x for m, x in zip(tops, logits.load(j, lanes).doubles(), strict=True)]
                costs = [
                    s.where(s.compare("==", 0.0), s * g) for s, g in zip(shares, gaps, strict=True)
                ]
                return [c + x for c, x in zip(carried, [*costs, *shares], strict=True)]

            return step

        def sums(weighted: bool) -> None:
            zeros = [Vector(builder, all_of(of_lanes(DOUBLE, LANES // 2), 0.0))] * 4
            j, carried = count(number(builder, 0), n, LANES, zeros, body(LANES, weighted))
            both = [_sum_of_lanes(a + b) for a, b in (carried[:2], carried[2:])]
            _, both = count(j, n, 1, both, body(1, weighted))
            for place, value in zip(results, both, strict=True):
                builder.store(value.value, place)

        with builder.if_else(builder.icmp_signed("!=", weights, number(builder, 0).value)) as (
            then,
            otherwise,
        ):
            with then:
                sums(True)
            with otherwise:
                sums(False)
        return context.make_tuple(builder, returned, [builder.load(place) for place in results])

    return returned(kind, integer, integer, integer, single, integer), generate


@intrinsic
def soft_slopes(
    typing: Any, kind: Any, e: Any, t: Any, n: Any, g: Any, numbers: Any, weights: Any, past: Any
) -> Any:
    """Write (p·(a − w·t + b) − w·t·(1 − p))·h, where 1 − p of the likeliest is the others' share.

    `numbers` is ``(e_top, 1/Σe, others/Σe, a, b, h)``, the arrays are those of `soft_terms`. Past
    the caches where `past`: the gradient then starts at a multiple of LANES elements.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, e, t, n, g, numbers, weights, past = args
        row, masses, gradient = Memory(builder, e), Memory(builder, t), Memory(builder, g, kind)
        weight_of, n = Memory(builder, weights, double), Vector(builder, n)

        def write(weighted: bool, through: bool) -> None:
            def body(j: Vector, units: int, lanes: int) -> None:
                top, inverse, others, a, b, h = _members(builder, numbers, lanes)
                for u in range(units):
                    place = j + lanes * u
                    x, share = row.load(place, lanes), masses.load(place, lanes)
                    if weighted:
                        share = share * weight_of.load(place, lanes).singles()
                    p = x * inverse
                    rest = others.where(x.compare("==", top), p.subtracted_from(1.0))
                    slope = (p * ((a - share) + b) - share * rest) * h
                    gradient.store(place, slope, past=through and lanes > 1)

            _spans(number(builder, 0), n, body, together=2)

        with builder.if_else(builder.icmp_signed("!=", weights, number(builder, 0).value)) as (
            then,
            otherwise,
        ):
            with then:
                write(True, False)
            with otherwise, builder.if_else(past) as (through, plainly):
                with through:
                    write(False, True)
                with plainly:
                    write(False, False)
        return context.get_dummy_value()

    return types.void(
        kind, integer, integer, integer, integer, types.UniTuple(single, 6), integer, types.boolean
    ), generate


# ---- over a block of rows ------------------------------------------------------------------------
#
# In scratch memory, class j of row i of m stands at j·m + i.


@intrinsic
def block_of_classes(typing: Any, kind: Any, z: Any, step: Any, n: Any, m: Any, to: Any) -> Any:
    """Copy a block whose rows are neighbours in memory, with `step` elements between classes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, z, step, n, m, to = args
        logits, block = Memory(builder, z, kind), Memory(builder, to)
        step, n, m = (Vector(builder, v) for v in (step, n, m))

        def one_class(j: Vector, _: Any) -> list[Vector]:
            def copy(i: Vector, units: int, lanes: int) -> None:
                places = [i + lanes * u for u in range(units)]
                values = [logits.load(j * step + p, lanes).singles() for p in places]
                for place, value in zip(places, values, strict=True):
                    block.store(j * m + place, value)

            _spans(number(builder, 0), m, copy, together=1)
            return []

        count(number(builder, 0), n, 1, [], one_class)
        return context.get_dummy_value()

    return types.void(kind, integer, integer, integer, integer, integer), generate


@intrinsic
def block_of_rows(
    typing: Any, kind: Any, z: Any, step: Any, along: Any, n: Any, m: Any, to: Any
) -> Any:
    """Copy a block with `step` elements between classes and `along` between rows.

    Where classes are neighbours, LANES rows of LANES classes are turned over at a time.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, z, step, along, n, m, to = args
        logits, block = Memory(builder, z, kind), Memory(builder, to)
        step, along, n, m = (Vector(builder, v) for v in (step, along, n, m))
        zero = number(builder, 0)

        def rows(i: Vector, units: int, lanes: int) -> None:
            def turn(j: Vector, _: Any) -> list[Vector]:
                parts = [logits.load((i + r) * along + j, LANES).singles() for r in range(LANES)]
                for k, value in enumerate(transposed(parts)):
                    block.store((j + k) * m + i, value)
                return []

            def gather(j: Vector, _: Any) -> list[Vector]:
                parts = [logits.load((i + r) * along + j * step, 1).singles() for r in range(lanes)]
                block.store(j * m + i, joined(parts))
                return []

            j = zero
            if lanes > 1:
                dense = n.where(step.compare("==", 1), zero)
                j, _ = count(j, dense, LANES, [], turn)
            count(j, n, 1, [], gather)

        _spans(zero, m, rows, together=1)
        return context.get_dummy_value()

    return types.void(kind, integer, integer, integer, integer, integer, integer), generate


def _top(block: Memory, n: Vector, m: Vector, i: Vector, lanes: int) -> Vector:
    """Write the maxima of neighbouring rows of a block; NaN is passed over."""
    least = Vector(i.builder, all_of(of_lanes(FLOAT, lanes), float("-inf")))

    def body(units: int) -> Any:
        def step(j: Vector, tops: list[Vector]) -> list[Vector]:
            values = [block.load((j + u) * m + i, lanes) for u in range(units)]
            return [larger(v, t) for v, t in zip(values, tops, strict=True)]

        return step

    j, (one, two) = count(number(i.builder, 0), n, 2, [least, least], body(2))
    _, (top,) = count(j, n, 1, [larger(one, two)], body(1))
    return top


@intrinsic
def block_tops(
    typing: Any, z: Any, n: Any, m: Any, constants: Any, tops: Any, floors: Any, magics: Any
) -> Any:
    """Find the maxima of a block's rows, NaN passed over, and the shifts that go with them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        z, n, m, constants, *results = args
        block = Memory(builder, z)
        best, floor_of, magic_of = (Memory(builder, a) for a in results)
        n, m = Vector(builder, n), Vector(builder, m)

        def rows(i: Vector, units: int, lanes: int) -> None:
            top = _top(block, n, m, i, lanes)
            floor, magic = _shift(top, _members(builder, constants, lanes))
            best.store(i, top)
            floor_of.store(i, floor)
            magic_of.store(i, magic)

        _spans(number(builder, 0), m, rows, together=1)
        return context.get_dummy_value()

    return types.void(integer, integer, integer, Constants, integer, integer, integer), generate


@intrinsic
def block_exponentials(
    typing: Any, kind: Any, e: Any, n: Any, m: Any, constants: Any, tops: Any, floors: Any,
    magics: Any, e_tops: Any, others: Any, following: Any, step: Any, along: Any,
) -> Any:  # fmt: skip
    """Replace a block's logits by their exponentials.

    Fills the exponentials of the rows' maxima, and (float64) Σ of all exponentials less one of
    those, which are left out of the sum so that no digit of the others is lost. Of a row for which
    `shift_of` will not do, they are anything. Meanwhile other memory is asked for, a line for
    each j < n and every LANES-th i < m: that of element ``j·step + i·along`` from `following` on.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, e, n, m, constants, *places, others, following, step, along = args
        ahead = Memory(builder, following, kind)
        step, along = Vector(builder, step), Vector(builder, along)
        block, rest = Memory(builder, e), Memory(builder, others, double)
        best, floor_of, magic_of, most = (Memory(builder, a) for a in places)
        n, m, zero = Vector(builder, n), Vector(builder, m), number(builder, 0)

        def rows(i: Vector, units: int, lanes: int) -> None:
            own = _members(builder, constants, lanes)
            top, floor, magic = (a.load(i, lanes) for a in (best, floor_of, magic_of))
            nothing = Vector(builder, all_of(top.value.type, 0.0))

            def classes(together: int) -> Any:
                def body(j: Vector, carried: list[Vector]) -> list[Vector]:
                    *sums, times = carried
                    places = [(j + k) * m + i for k in range(together)]
                    zs = [block.load(p, lanes) for p in places]
                    made = _exponentials(zs, [floor] * together, [magic] * together, own)
                    if lanes > 1:
                        for k in range(together):
                            ahead.prefetch(i * along + (j + k) * step, 1)
                    same = [z.compare("==", top) for z in zs]
                    for place, value, mask in zip(places, made, same, strict=True):
                        block.store(place, value)
                        times = times.more_where(mask)
                    rest = [nothing.where(s, v) for s, v in zip(same, made, strict=True)]
                    more = _sum_of(rest).doubles()
                    return [*(s + d for s, d in zip(sums, more, strict=True)), times]

                return body

            half = max(1, lanes // 2)
            none = Vector(builder, all_of(of_lanes(DOUBLE, half), 0.0))
            but_one = Vector(builder, all_of(of_lanes(INT, lanes), -1))
            j, carried = zero, [*[none] * (lanes // half), but_one]
            for together in (TOGETHER, 1):  # also where a row is alone: its bits are the same
                j, carried = count(j, n, together, carried, classes(together))
            *sums, again = carried
            (value,) = _exponentials([top], [floor], [magic], own)
            most.store(i, value)
            parts = (
                again.part(start, half) if lanes > 1 else again for start in range(0, lanes, half)
            )
            for k, (s, a, d) in enumerate(zip(sums, parts, value.doubles(), strict=True)):
                rest.store(i + half * k, s + a.floats(DOUBLE) * d)

        _spans(zero, m, rows, together=1)
        return context.get_dummy_value()

    return types.void(
        kind, integer, integer, integer, Constants, integer, integer, integer, integer, integer,
        integer, integer, integer,
    ), generate  # fmt: skip


def _wide(memory: Memory, i: Vector, lanes: int) -> Vector:
    """Write the reading of float32 as float64."""
    value = memory.load(i, lanes)
    return value._made(value.builder.fpext(value.value, of_lanes(DOUBLE, lanes)))


@intrinsic
def block_losses(
    typing: Any, m: Any, weights: Any, others: Any, e_tops: Any, tops: Any, masses: Any,
    surprise: Any, losses: Any, lses: Any, inverse: Any, z_loss: Any,
) -> Any:  # fmt: skip
    """Fill the losses and log-sum-exps of m rows; return Σ weight·loss and Σ weight·mass.

    `inverse` is 1/T; all arrays are float64 but the exponentials of the maxima, and the maxima.
    """
    returned = types.UniTuple(double, 2)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        m, *addresses, inverse, z_loss = args
        weight_of, other, e_top, top, mass_of, gap, loss_of, lse_of = (
            Memory(builder, a, single if k in (2, 3) else double) for k, a in enumerate(addresses)
        )

        def body(lanes: int) -> Any:
            inverse_of, z_weight = (spread(Vector(builder, v), lanes) for v in (inverse, z_loss))

            def step(i: Vector, sums: list[Vector]) -> list[Vector]:
                log_sum = _log1p(other.load(i, lanes) / _wide(e_top, i, lanes))
                lse = log_sum + _wide(top, i, lanes) * inverse_of
                weight, mass = weight_of.load(i, lanes), mass_of.load(i, lanes)
                loss = mass * (log_sum + z_weight * lse * lse) + gap.load(i, lanes) * inverse_of
                loss_of.store(i, loss)
                lse_of.store(i, lse)
                return [sums[0] + weight * loss, sums[1] + weight * mass]

            return step

        nothing = Vector(builder, all_of(of_lanes(DOUBLE, LANES), 0.0))
        m = Vector(builder, m)
        i, sums = count(number(builder, 0), m, LANES, [nothing, nothing], body(LANES))
        _, sums = count(i, m, 1, [_sum_of_lanes(s) for s in sums], body(1))
        return context.make_tuple(builder, returned, [s.value for s in sums])

    return returned(*[integer] * 9, double, double), generate


@intrinsic
def block_slopes(
    typing: Any, m: Any, scaled: Any, others: Any, e_tops: Any, masses: Any, lses: Any, e_y: Any,
    slopes: Any, factors: Any, inverse: Any, z_loss: Any,
) -> Any:  # fmt: skip
    """Fill the gradient at the class indices of m rows, and the factors of the other classes.

    `scaled` is the gradient's weight and becomes the factor in float64; slopes and factors are
    float32. `e_y` is the exponential at the index.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        m, *addresses, inverse, z_loss = args
        scale, other, e_top, mass_of, lse_of, at_index, slope_of, factor_of = (
            Memory(builder, a, single if k in (2, 6, 7) else double)
            for k, a in enumerate(addresses)
        )

        def rows(i: Vector, units: int, lanes: int) -> None:
            by, z_weight = (spread(Vector(builder, v), lanes) for v in (inverse, z_loss))
            rest_of, top = other.load(i, lanes), _wide(e_top, i, lanes)
            mass, x = mass_of.load(i, lanes), at_index.load(i, lanes)
            each = scale.load(i, lanes) * by / (rest_of + top)
            bend = z_weight * lse_of.load(i, lanes) * 2.0
            rest = rest_of.where(x.compare("==", top), (rest_of + top) - x)
            factor = each * (mass * (bend + 1.0))
            slope_of.store(i, (each * (mass * (bend * x - rest))).singles())
            factor_of.store(i, factor.singles())
            scale.store(i, factor)

        _spans(number(builder, 0), Vector(builder, m), rows, together=1)
        return context.get_dummy_value()

    return types.void(*[integer] * 9, double, double), generate


@intrinsic
def block_to_classes(
    typing: Any, kind: Any, e: Any, n: Any, m: Any, g: Any, step: Any, factors: Any, targets: Any,
    slopes: Any, past: Any,
) -> Any:  # fmt: skip
    """Write a block times its rows' factors, and at a row's target (int32) its slope instead.

    The inverse of `block_of_classes`; past the caches where `past`: every class then starts at a
    multiple of LANES elements.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, e, n, m, g, step, factors, targets, slopes, past = args
        block, gradient = Memory(builder, e), Memory(builder, g, kind)
        factor, slope = Memory(builder, factors), Memory(builder, slopes)
        target = Memory(builder, targets, types.int32)
        n, m, step = (Vector(builder, v) for v in (n, m, step))

        def write(through: bool) -> Any:
            def body(j: Vector, _: Any) -> list[Vector]:
                narrow = Vector(builder, builder.trunc(j.value, INT))

                def rows(i: Vector, units: int, lanes: int) -> None:
                    for u in range(units):
                        place = i + lanes * u
                        value = block.load(j * m + place, lanes) * factor.load(place, lanes)
                        here = target.load(place, lanes).compare("==", spread(narrow, lanes))
                        value = slope.load(place, lanes).where(here, value)
                        gradient.store(j * step + place, value, past=through and lanes > 1)

                _spans(number(builder, 0), m, rows, together=1)
                return []

            return body

        with builder.if_else(past) as (then, otherwise):
            with then:
                count(number(builder, 0), n, 1, [], write(True))
            with otherwise:
                count(number(builder, 0), n, 1, [], write(False))
        return context.get_dummy_value()

    return types.void(
        kind, integer, integer, integer, integer, integer, integer, integer, integer, types.boolean
    ), generate


@intrinsic
def block_to_rows(
    typing: Any, kind: Any, e: Any, n: Any, m: Any, g: Any, step: Any, along: Any, factors: Any
) -> Any:
    """Write a block times its rows' factors; the inverse of `block_of_rows`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, e, n, m, g, step, along, factors = args
        block, gradient = Memory(builder, e), Memory(builder, g, kind)
        factor = Memory(builder, factors)
        n, m, step, along = (Vector(builder, v) for v in (n, m, step, along))
        zero = number(builder, 0)

        def rows(i: Vector, units: int, lanes: int) -> None:
            by = factor.load(i, lanes)

            def turn(j: Vector, _: Any) -> list[Vector]:
                parts = [block.load((j + k) * m + i, LANES) * by for k in range(LANES)]
                for r, value in enumerate(transposed(parts)):
                    gradient.store((i + r) * along + j, value)
                return []

            def scatter(j: Vector, _: Any) -> list[Vector]:
                value = block.load(j * m + i, lanes) * by
                for r in range(lanes):
                    gradient.store((i + r) * along + j * step, value.lane(r))
                return []

            j = zero
            if lanes > 1:
                dense = n.where(step.compare("==", 1), zero)
                j, _ = count(j, dense, LANES, [], turn)
            count(j, n, 1, [], scatter)

        _spans(zero, m, rows, together=1)
        return context.get_dummy_value()

    return types.void(kind, integer, integer, integer, integer, integer, integer, integer), generate
