"""The figures of `benchmarks.rows` as text, and what they were to reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from benchmarks.apart import FirstCall, Peak
from benchmarks.results import replace_part, seconds_in_words
from benchmarks.rows import BOTH, FORWARD, NEW, Timing
from xent.losses.cases import SHAPES

__all__ = ["Target", "render_readme", "table", "target_lines", "targets"]

HEADS = (
    f"  {'':22}{'xent':>11}{'torch':>11}{'ratio':>8}{'by round':>10}{'GB/s':>8}"
    f"{'of read':>9}{'of copy':>9}{'of new copy':>13}"
)
QUIET = 0.2
"""Cores that others may keep busy before the ratios are doubtful."""


def _busy(others: float | None) -> str:
    return "" if others is None else f"; others kept {others:.1f} cores busy"


def _share(part: float, whole: float | None) -> str:
    return "" if whole is None else f"{part / whole:.0%}"


def table(timings: Sequence[Timing], peaks: Sequence[Peak]) -> str:
    """Return the timings as text, with memory and errors beside them."""
    extra = {peak.name: peak for peak in peaks}
    lines = [
        "xent.torch.cross_entropy beside torch.nn.functional.cross_entropy: medians, in turns.",
    ]
    for name in dict.fromkeys(t.name for t in timings):
        mine = [t for t in timings if t.name == name]
        first = mine[0]
        rounds = f"{first.rounds} rounds, {first.threads} threads{_busy(first.others)}"
        lines += ["", f"{name}: {first.size}; {first.kernel}; {rounds}", HEADS]
        for t in mine:
            read = _share(t.gigabytes, t.read if t.does == FORWARD else None)
            copy, fresh = (
                _share(t.gigabytes, None if t.does == FORWARD else rate)
                for rate in (t.copy, t.fresh_copy)
            )
            lines.append(
                f"  {t.does:22}{seconds_in_words(t.xent_seconds):>11}"
                f"{seconds_in_words(t.torch_seconds):>11}"
                f"{t.ratio:>8.2f}{t.ratio_by_round:>10.2f}{t.gigabytes:>8.1f}"
                f"{read:>9}{copy:>9}{fresh:>13}"
            )
        if first.read is not None and first.copy is not None and first.fresh_copy is not None:
            lines.append(
                f"  memory moves at: read {first.read:.1f}, copy {first.copy:.1f}, "
                f"copy into new memory {first.fresh_copy:.1f} GB/s"
            )
        a, b = first.xent_errors, first.torch_errors
        lines.append(
            f"  errors: loss {a.loss_ulps:.2g} ulp (torch {b.loss_ulps:.2g}), gradient "
            f"{a.gradient_of_bound:.2g} of its bound (torch {b.gradient_of_bound:.2g})"
        )
        if name in extra:
            lines.append("  " + _peak(extra[name]))
    if max((t.others or 0.0 for t in timings), default=0.0) > QUIET:
        lines += [
            "",
            "This machine was not quiet. torch's threads wait for each other, so whatever else",
            "runs slows torch more than xent, and the ratios flatter xent.",
        ]
    lines += [
        "",
        "GB/s: logits (and soft targets) read once, and gradients written once, over xent's time.",
        f"{BOTH!r} is what a training loop does: xent uses the memory of the last gradient again;",
        f"{NEW!r} gives it back first, as torch does. Copies likewise: into memory that is there,",
        "and into new memory. Both copies and the read are the fastest of two ways. Errors are",
        "those of a sample of rows against float64, some confident and right; those of a gradient",
        "are of the mean. In bfloat16 the right rounding alone may take all of the bound.",
    ]
    return "\n".join(lines) + "\n"


def _peak(peak: Peak) -> str:
    def times(size: int) -> str:
        return f"{size / 1e6:.1f} MB = {size / peak.gradient_bytes:.3f} gradients"

    return (
        f"peak extra memory: {times(peak.xent_bytes)} (torch {times(peak.torch_bytes)}); kept "
        f"afterwards {peak.xent_kept / 1e6:.1f} MB (torch {peak.torch_kept / 1e6:.1f} MB)"
    )


# ---- what is to be reached -----------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """Something to be reached.

    Attributes
    ----------
    name
        What.
    figure, bound
        What was measured, NaN if it was not, and what it must reach; in `unit`.
    unit
        ``"×"``, ``"%"``, ``"s"`` or ``"gradients"``.
    most
        Whether the bound is the most that is allowed, rather than the least.
    others
        How many cores other processes kept busy at most while it was timed.
    """

    name: str
    figure: float
    bound: float
    unit: str
    most: bool = False
    others: float = 0.0

    @property
    def verdict(self) -> str:
        """Say ``"holds"``, ``"misses"``, ``"not measured"`` or ``"doubtful"``.

        What seems to hold is doubtful on a machine that others use: see `QUIET`.
        """
        if math.isnan(self.figure):
            return "not measured"
        if not (self.figure <= self.bound if self.most else self.figure >= self.bound):
            return "misses"
        return "doubtful" if self.others > QUIET else "holds"

    def as_dict(self) -> dict[str, Any]:
        """Return the target as a JSON object."""
        return {"kind": "target", **asdict(self), "verdict": self.verdict}


def targets(
    timings: Sequence[Timing], peaks: Sequence[Peak], first_calls: Sequence[FirstCall]
) -> list[Target]:
    """Return what is to be reached and what was; a figure needs all the shapes that it is of."""
    found = {(t.name, t.does): t for t in timings}

    def target(
        name: str, of: Sequence[str], does: str, figure: Callable[[list[Timing]], float],
        bound: float, unit: str = "×",
    ) -> Target:  # fmt: skip
        mine = [found[shape, does] for shape in of if (shape, does) in found]
        if len(mine) < len(of):
            return Target(name, math.nan, bound, unit)
        others = max(t.others or 0.0 for t in mine)
        return Target(name, figure(mine), bound, unit, others=others)

    def faster(name: str, of: Sequence[str], figure: Any, bound: float) -> list[Target]:
        return [
            target(f"{BOTH}, {name}", of, BOTH, figure, bound),
            target("  with new memory for each gradient", of, NEW, figure, bound),
        ]

    hard = [s.name for s in SHAPES if s.plain and not s.tiny]
    tiny = [s.name for s in SHAPES if s.tiny]
    half = [s.name for s in SHAPES if s.dtype == "bfloat16"]
    soft = [s.name for s in SHAPES if s.soft]
    reached = [
        *faster(f"geometric mean of {len(hard)} hard", hard, _geometric, 12.0),
        target(f"{BOTH}, the worse of the tiny", tiny, BOTH, _least, 0.85),
        *faster("the worse of bfloat16", half, _least, 8.0),
        *faster("the worse of soft targets", soft, _least, 4.0),
        *faster("segmentation", ["segmentation"], _least, 6.0),
        *(
            target(f"{name}, {does}, of a {move.replace('_', ' ')}", [name], does, share, 60.0, "%")
            for name in ("llm-32000", "imagenet")
            for does, move in ((FORWARD, "read"), (BOTH, "copy"), (NEW, "fresh_copy"))
            for share in [partial(_percent, move)]
        ),
    ]
    worst = max((p.xent_bytes / p.gradient_bytes for p in peaks), default=math.nan)
    cold = max((f.cold for f in first_calls), default=math.nan)
    warm = max((f.warm for f in first_calls), default=math.nan)
    return [
        *reached,
        Target(f"peak extra memory, the worst of {len(peaks)}", worst, 1.05, "gradients", True),
        Target("first call, nothing compiled, the worst kind", cold, 5.0, "s", True),
        Target("first call, compiled before, the worst kind", warm, 0.5, "s", True),
    ]


def _geometric(timings: list[Timing]) -> float:
    return math.exp(math.fsum(math.log(t.ratio) for t in timings) / len(timings))


def _least(timings: list[Timing]) -> float:
    return min(t.ratio for t in timings)


def _percent(move: str, timings: list[Timing]) -> float:
    (timing,) = timings
    whole = getattr(timing, move)
    return math.nan if whole is None else 100.0 * timing.gigabytes / whole


def target_lines(reached: Sequence[Target]) -> str:
    """Return the targets as text, each with its figure and whether it holds."""
    width = max(len(t.name) for t in reached)
    lines = ["", "To be reached"]
    for t in reached:
        figure = "" if math.isnan(t.figure) else f"{t.figure:.3g} {t.unit}"
        bound = f"{'≤' if t.most else '≥'} {t.bound:g}"
        lines.append(f"  {t.name:{width}}{figure:>18}{bound:>10}   {t.verdict}")
    return "\n".join(lines) + "\n"


def render_readme(text: str, lines: Iterable[dict[str, Any]]) -> str:
    """Return the README with its table of times made from the measurements."""
    return replace_part(text, "rows", _readme_table(list(lines)))


def _readme_table(lines: list[dict[str, Any]]) -> str:
    timings = [t for t in lines if t["kind"] == "timing"]
    by = {(t["name"], t["does"]): t for t in timings}
    words = (
        "Forward and backward of `cross_entropy` on two CPU cores, beside PyTorch's own, medians "
        "in turns\n([`benchmarks/results/rows.jsonl`](benchmarks/results/rows.jsonl), by "
        "`make bench`); both write a new gradient, ours into the memory of the\nlast one."
    )
    rows = [
        words,
        "",
        "| logits | PyTorch | xent | ratio | with fresh memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(t["name"] for t in timings):
        both, new = by[name, BOTH], by.get((name, NEW))
        rows.append(
            f"| {both['size']} | {seconds_in_words(both['torch_seconds'])} | "
            f"{seconds_in_words(both['xent_seconds'])} | {both['ratio']:.1f} × | "
            + (f"{new['ratio']:.1f} × |" if new else "– |")
        )
    return "\n".join(rows) + "\n"
