"""Vectors in the instructions of a compiled kernel: what LLVM's own vectoriser is not told.

A loop over arrays is vectorised by LLVM one statement after the other, each with a pass over
memory of its own, and what several statements need is left to the processor to overlap. The loops
that decide how fast a kernel is are therefore written as vectors here, and numba calls them like
functions: a `Vector` is a value of some lanes while instructions are written, `Memory` is an
array at an address, and `count` is a loop.

`LANES` float32 fill a register of most processors; narrower ones take two. The order in which
vectors are written is about the order in which they are computed: several that do the same step by
step keep more of a processor busy than one that is finished before the next begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types

__all__ = [
    "BYTE",
    "DOUBLE",
    "FLOAT",
    "HALF",
    "INT",
    "LANES",
    "LONG",
    "WORD",
    "Memory",
    "Vector",
    "all_of",
    "count",
    "fma",
    "joined",
    "larger",
    "number",
    "of_lanes",
    "spread",
    "transposed",
]

LANES = 8
FLOAT, DOUBLE, HALF, INT, LONG, WORD, BYTE = (
    ir.FloatType(),
    ir.DoubleType(),
    ir.HalfType(),
    ir.IntType(32),
    ir.IntType(64),
    ir.IntType(16),
    ir.IntType(8),
)
SIZES = {FLOAT: 4, DOUBLE: 8, HALF: 2, INT: 4, LONG: 8, WORD: 2, BYTE: 1}
"""Bytes of a number."""
LINE = 64
"""Bytes that are read from memory at once."""


def of_lanes(element: Any, lanes: int) -> Any:
    """Return the type of that many numbers: one is a plain number."""
    return ir.VectorType(element, lanes) if lanes > 1 else element


class Vector:
    """Numbers next to each other, all of one LLVM type; a single one is a vector of one lane."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def element(self) -> Any:
        """Return the type of one number."""
        kind = self.value.type
        return kind.element if isinstance(kind, ir.VectorType) else kind

    @property
    def lanes(self) -> int:
        """Return how many numbers there are."""
        kind = self.value.type
        return kind.count if isinstance(kind, ir.VectorType) else 1

    def _made(self, value: Any) -> Vector:
        return Vector(self.builder, value)

    def _like(self, other: Vector | float) -> Any:
        return other.value if isinstance(other, Vector) else all_of(self.value.type, other)

    def _either(self, float_name: str, int_name: str, other: Vector | float) -> Vector:
        name = int_name if isinstance(self.element, ir.IntType) else float_name
        return self._made(getattr(self.builder, name)(self.value, self._like(other)))

    def __add__(self, other: Vector | float) -> Vector:
        return self._either("fadd", "add", other)

    def __sub__(self, other: Vector | float) -> Vector:
        return self._either("fsub", "sub", other)

    def __mul__(self, other: Vector | float) -> Vector:
        return self._either("fmul", "mul", other)

    def __truediv__(self, other: Vector | float) -> Vector:
        return self._made(self.builder.fdiv(self.value, self._like(other)))

    def subtracted_from(self, other: Vector | float) -> Vector:
        """Return the difference the other way round."""
        return self._made(self._like(other)) - self

    def __lshift__(self, bits: int) -> Vector:
        return self._made(self.builder.shl(self.value, self._like(bits)))

    def __rshift__(self, bits: int) -> Vector:
        """Shift zeros in from above."""
        return self._made(self.builder.lshr(self.value, self._like(bits)))

    def __and__(self, other: Vector | int) -> Vector:
        return self._made(self.builder.and_(self.value, self._like(other)))

    def compare(self, sign: str, other: Vector | float) -> Vector:
        """Return where a comparison holds; none does for NaN, not even !=."""
        named = self.builder.icmp_signed if isinstance(self.element, ir.IntType) else None
        return self._made((named or self.builder.fcmp_ordered)(sign, self.value, self._like(other)))

    def where(self, mask: Vector, other: Vector | float) -> Vector:
        """Return the numbers where the mask holds, and the others' elsewhere."""
        return self._made(self.builder.select(mask.value, self.value, self._like(other)))

    def more_where(self, mask: Vector) -> Vector:
        """Return integers, 1 more where the mask holds."""
        ones = self.builder.sext(mask.value, self.value.type)
        return self - self._made(ones)

    def floats(self, element: Any) -> Vector:
        """Return integers as numbers of a floating type."""
        return self._made(self.builder.sitofp(self.value, of_lanes(element, self.lanes)))

    def bits(self, element: Any) -> Vector:
        """Return the same bits as numbers of another type of their width."""
        return self._made(self.builder.bitcast(self.value, of_lanes(element, self.lanes)))

    def part(self, start: int, length: int) -> Vector:
        """Return some neighbouring lanes."""
        lanes = ir.Constant(ir.VectorType(INT, length), list(range(start, start + length)))
        return self._made(self.builder.shuffle_vector(self.value, self.value, lanes))

    def lane(self, i: int) -> Vector:
        """Return one number."""
        if self.lanes == 1:
            return self
        return self._made(self.builder.extract_element(self.value, ir.Constant(INT, i)))

    def doubles(self) -> list[Vector]:
        """Return the numbers as float64: two halves of the lanes where there are several."""
        if self.lanes == 1:
            return [self._made(self.builder.fpext(self.value, DOUBLE))]
        half = self.lanes // 2
        wide = ir.VectorType(DOUBLE, half)
        parts = (self.part(start, half) for start in (0, half))
        return [self._made(self.builder.fpext(part.value, wide)) for part in parts]

    def singles(self) -> Vector:
        """Return float64 rounded to float32, other numbers as they are."""
        if self.element != DOUBLE:
            return self
        return self._made(self.builder.fptrunc(self.value, of_lanes(FLOAT, self.lanes)))

    # What float32 is in memory.

    def widened(self, kind: Any) -> Vector:
        """Return float32 of numbers of a kind, exactly; float64 is left as it is."""
        if kind == types.uint16:
            wide = self.builder.zext(self.value, of_lanes(INT, self.lanes))
            return (self._made(wide) << 16).bits(FLOAT)
        if kind == types.int16:
            half = self.builder.bitcast(self.value, of_lanes(HALF, self.lanes))
            return self._made(self.builder.fpext(half, of_lanes(FLOAT, self.lanes)))
        if kind == types.int64:
            return self.floats(FLOAT)
        return self

    def narrowed(self, kind: Any) -> Vector:
        """Round float32 to a kind, to nearest and ties to even; NaN stays NaN."""
        if kind == types.float64:
            return self._made(self.builder.fpext(self.value, of_lanes(DOUBLE, self.lanes)))
        if kind == types.int16:
            half = self.builder.fptrunc(self.value, of_lanes(HALF, self.lanes))
            return self._made(half).bits(WORD)
        if kind != types.uint16:
            return self
        word = self.bits(INT)
        rounded = word + ((word >> 16) & 1) + 0x7FFF
        unordered = self.builder.fcmp_unordered("uno", self.value, self.value)
        rounded = rounded._made(
            self.builder.select(unordered, rounded._like(0x7FC00000), rounded.value)
        )
        return self._made(self.builder.trunc((rounded >> 16).value, of_lanes(WORD, self.lanes)))


def all_of(kind: Any, value: float) -> Any:
    """Return the constant of a type of which every lane is the value."""
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [value] * kind.count)
    return ir.Constant(kind, value)


def number(builder: Any, value: int) -> Vector:
    """Return an index."""
    return Vector(builder, ir.Constant(LONG, value))


def spread(one: Vector, lanes: int) -> Vector:
    """Return a vector of which every lane is one number."""
    if lanes == 1:
        return one
    kind = ir.VectorType(one.value.type, lanes)
    nothing = ir.Constant(kind, ir.Undefined)
    first = one.builder.insert_element(nothing, one.value, ir.Constant(INT, 0))
    zeros = ir.Constant(ir.VectorType(INT, lanes), [0] * lanes)
    return Vector(one.builder, one.builder.shuffle_vector(first, nothing, zeros))


def joined(parts: Sequence[Vector]) -> Vector:
    """Return single numbers as the lanes of a vector."""
    first, *others = parts
    if not others:
        return first
    made = spread(first, len(parts)).value
    for i, part in enumerate(others, 1):
        made = first.builder.insert_element(made, part.value, ir.Constant(INT, i))
    return Vector(first.builder, made)


def fma(a: Vector, b: Vector | float, c: Vector | float) -> Vector:
    """Return a·b + c rounded once: an instruction, or the C library's where there is none."""
    builder, kind = a.builder, a.value.type
    width = {FLOAT: "f32", DOUBLE: "f64"}[a.element]
    name = f"llvm.fma.v{a.lanes}{width}" if a.lanes > 1 else f"llvm.fma.{width}"
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return Vector(builder, builder.call(function, [a.value, a._like(b), a._like(c)]))


def larger(a: Vector, b: Vector) -> Vector:
    """Return a where it is above b, else b: NaN in `a` is passed over."""
    return a.where(a.compare(">", b), b)


def transposed(rows: Sequence[Vector]) -> list[Vector]:
    """Transpose LANES vectors of LANES, in rounds of swaps of blocks of half, a quarter, … ."""
    done, size = list(rows), LANES // 2
    while size:
        lower = [i for i in range(LANES) if not i & size]
        keep, swap = (
            ir.Constant(
                ir.VectorType(INT, LANES),
                [i + up if not i & size else LANES + i - down for i in range(LANES)],
            )
            for up, down in ((0, size), (size, 0))
        )
        for i in lower:
            a, b = done[i], done[i + size]
            for to, lanes in ((i, keep), (i + size, swap)):
                done[to] = a._made(a.builder.shuffle_vector(a.value, b.value, lanes))
        size //= 2
    return done


class Memory:
    """An array of numbers of a kind at an address; a kind is a numba type, as in `load`."""

    def __init__(self, builder: Any, address: Any, kind: Any = types.float32) -> None:
        self.builder, self.kind = builder, kind
        self.element = {
            types.float32: FLOAT, types.float64: DOUBLE, types.uint16: WORD, types.int16: WORD,
            types.int32: INT, types.int64: LONG,
        }[kind]  # fmt: skip
        self.pointer = builder.inttoptr(address, self.element.as_pointer())

    def _at(self, index: Vector, lanes: int) -> Any:
        place = self.builder.gep(self.pointer, [index.value])
        return self.builder.bitcast(place, of_lanes(self.element, lanes).as_pointer())

    def load(self, index: Vector, lanes: int) -> Vector:
        """Return neighbouring numbers, half types as float32."""
        read = self.builder.load(self._at(index, lanes))
        read.align = SIZES[self.element]
        return Vector(self.builder, read).widened(self.kind)

    def prefetch(self, index: Vector, length: int) -> None:
        """Ask for neighbouring numbers to be read; where there is no memory, nothing happens."""
        byte = BYTE.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
        function = self.builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        for i in range(0, length, LINE // SIZES[self.element]):
            place = self.builder.bitcast(self._at(index + i, 1), byte)
            # To read, into the first cache, as data.
            self.builder.call(function, [place, *(ir.Constant(INT, k) for k in (0, 3, 1))])

    def store(self, index: Vector, vector: Vector, past: bool = False) -> None:
        """Write neighbouring numbers, rounded to the kind.

        `past` the caches needs an address that is a multiple of the vector's size. A gradient is
        larger than any cache and is next read by another part of the program; writing it past
        them saves reading its old contents first.
        """
        if vector.element == FLOAT:
            vector = vector.narrowed(self.kind)
        write = self.builder.store(vector.value, self._at(index, vector.lanes))
        write.align = SIZES[self.element] * (vector.lanes if past else 1)
        if past:
            one = self.builder.module.add_metadata([ir.Constant(INT, 1)])
            write.set_metadata("nontemporal", one)


Carried = list[Vector]


def count(
    start: Vector,
    stop: Vector,
    step: int,
    carried: Carried,
    body: Callable[[Vector, Carried], Carried],
) -> tuple[Vector, Carried]:
    """Write ``while start + step <= stop: carried = body(start, carried); start += step``.

    Returns what `start` and the carried values are at the end.
    """
    builder = start.builder
    before = builder.block
    head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    places = [builder.phi(v.value.type) for v in (start, *carried)]
    for place, value in zip(places, (start, *carried), strict=True):
        place.add_incoming(value.value, before)
    j, *now = [Vector(builder, place) for place in places]
    builder.cbranch((j + step).compare("<=", stop).value, inside, after)
    builder.position_at_end(inside)
    results = [j + step, *body(j, now)]
    for place, value in zip(places, results, strict=True):
        place.add_incoming(value.value, builder.block)
    _leave_as_written(builder.branch(head))
    builder.position_at_end(after)
    return j, now


def _leave_as_written(branch: Any) -> None:
    """Tell LLVM neither to unroll nor to vectorise the loop that a branch closes."""
    module = branch.parent.parent.module
    hints = [
        module.add_metadata([name, *value])
        for name, value in (
            ("llvm.loop.vectorize.enable", [ir.Constant(ir.IntType(1), 0)]),
            ("llvm.loop.unroll.disable", []),
        )
    ]
    # What names a loop is a node that refers to itself, which `add_metadata` cannot write.
    loop = ir.MDValue(module, [], name=str(len(module.metadata)))
    loop.operands = (loop, *hints)
    branch.set_metadata("llvm.loop", loop)
