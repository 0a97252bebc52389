"""The page docs/accuracy.md, written from stored measurements alone: same lines, same text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.results import ROOT, replace_part
from xent.losses.cases import GRADIENT, LOSS_ULPS

__all__ = ["PAGE", "README", "STORED", "beyond_bound", "render", "render_readme"]

STORED = ROOT / "benchmarks" / "results" / "accuracy.jsonl"
PAGE = ROOT / "docs" / "accuracy.md"
README = ROOT / "README.md"
DTYPES = ("float32", "float64", "float16", "bfloat16")

Line = dict[str, Any]


def beyond_bound(lines: Iterable[Line]) -> list[str]:
    """Return, in words, every worst error that lies beyond what is declared."""
    return [
        f"{m['function']} ({m['quantity']}) on {m['library']}, {m['dtype']}: {m['worst']} "
        f"{m['unit']} for at most {m['bound']}, in {m['where']!r}"
        for m in lines
        if m["kind"] == "error" and not float(m["worst"]) <= float(m["bound"])
    ]


def render(lines: list[Line]) -> str:
    """Return the page's text."""
    errors = [line for line in lines if line["kind"] == "error"]
    comparisons = [line for line in lines if line["kind"] == "comparison"]
    parts = [_introduction(errors), _bounds()]
    parts += [_errors(errors, dtype) for dtype in DTYPES]
    parts += [_comparisons(comparisons), _provenance(lines[0])]
    return "\n\n".join(parts) + "\n"


def render_readme(text: str, lines: list[Line]) -> str:
    """Return the README with its table of figures made from the measurements."""
    rows = [
        [
            f"`{c['system']}`",
            c["library"],
            f"{c['wrong'] + c['beyond']} of {c['rows']}",
            _figure(c["worst"], "ulp"),
        ]
        for c in lines
        if c["kind"] == "comparison"
        and c["dtype"] == "float32"
        and c["library"] in ("numpy", "torch", "jax")
    ]
    heads = ["float32 logits", "arrays", "rows off by more than 4 ulp", "worst, in ulp"]
    return replace_part(text, "measured", f"{_table(heads, rows)}\n")


def _introduction(errors: list[Line]) -> str:
    numbers = sum(m["numbers"] for m in errors)
    return f"""# Accuracy

<!-- Written by `python -m benchmarks accuracy`; edits are lost. -->

How far the results of `xent` lie from the exact ones, at worst, over {_grouped(numbers)} numbers.
The exact ones are computed in arithmetic of 600 bits from the inputs as each array library holds
them, after rounding to the dtype. The inputs are those that go wrong elsewhere: common offsets of
2²⁶, gaps of 90 between logits, confident right and wrong rows, masked classes, logits of 10³⁰,
distributions with masses of 10⁻³⁰, nearly equal ones. They are listed in
`src/xent/losses/cases.py` and `tests/test_information.py`.

`python -m benchmarks accuracy` measures all of it again and rewrites this page;
`tests/test_benchmarks.py` fails where the page and the stored measurements differ, or where an
error lies beyond its bound."""


def _bounds() -> str:
    return f"""## What the numbers mean

- **ulp**: units in the last place of the exact result, in the dtype of the result. That is float64
  for float64 inputs, and float32 for float32 and the half types. A correctly rounded result has at
  most 0.5. Losses are within {LOSS_ULPS:g} ulp; a perplexity may have one more for each nat of its
  logarithm. For a log-sum-exp the unit is that of the larger of its two terms, the row's maximum
  and the rest, which may cancel.
- **relative**: the error over the exact gradient entry, for hard targets: at most {GRADIENT:g}
  while the entry is a normal number.
- **of bound**: the error over what is allowed there, so 1 at most. A gradient entry may be off by
  {GRADIENT:g}·w·(p + t), where w is the row's weight, p the probability and t the target's mass,
  plus the smallest normal number 2⁻¹²⁶; Hessian products and squared errors likewise, by the size
  of what is subtracted in them. A divergence may be off by {LOSS_ULPS:g} ulp of the sum of its
  terms, each taken ≥ 0, and so may mutual information, but for the rounding of its marginals.
- JAX on a CPU replaces numbers below 2⁻¹²⁶ by 0. A number that is off by no more than this can
  explain is within its bound, and is left out of the worst ulp.
- **jax** is JAX as it comes, without 64-bit: everything is computed in float32. Elsewhere sums and
  exponentials are in float64, also for float32 inputs, so those errors are of the last rounding."""


def _errors(errors: list[Line], dtype: str) -> str:
    of_dtype = [m for m in errors if m["dtype"] == dtype]
    names = list(dict.fromkeys(m["library"] for m in of_dtype))
    kinds = list(dict.fromkeys((m["function"], m["quantity"], m["unit"]) for m in of_dtype))
    found = {(m["function"], m["quantity"], m["library"]): m for m in of_dtype}
    rows = []
    for function, quantity, unit in kinds:
        cells = [found.get((function, quantity, name)) for name in names]
        bounds = sorted({float(m["bound"]) for m in cells if m})
        what = f"`{function}`" + ("" if quantity == "value" else f", {quantity}")
        shown = [_figure(m["worst"], unit) if m else "" for m in cells]
        bound = _range([_figure(b, unit) if unit != "ulp" else f"{b:.3g}" for b in bounds])
        rows.append([what, unit, *shown, bound])
    title = f"## Worst errors for {dtype} inputs"
    return title + "\n\n" + _table(["what", "in", *names, "at most"], rows)


def _range(bounds: list[str]) -> str:
    return bounds[0] if bounds[0] == bounds[-1] else f"{bounds[0]} to {bounds[-1]}"


def _figure(value: Any, unit: str) -> str:
    number = float(value)
    if unit == "relative":
        return f"{number:.1e}"
    if number and abs(number) < 0.005:
        return f"{number:.0e}"
    return f"{number:.2f}" if number < 100 else f"{number:.3g}"


def _comparisons(comparisons: list[Line]) -> str:
    rows = [
        [
            f"`{c['system']}`",
            c["library"],
            c["dtype"],
            _grouped(c["rows"]),
            str(c["wrong"]),
            str(c["beyond"]),
            _figure(c["median"], "ulp"),
            _figure(c["worst"], "ulp"),
        ]
        for c in comparisons
    ]
    heads = ["system", "arrays", "inputs", "rows", "wrong", "beyond", "median ulp", "worst ulp"]
    return f"""## The same rows by other ways

The rows with hard targets and at most a temperature, which divides the logits beforehand where a
system has none. *Wrong* are rows that come out NaN, infinite where the loss is finite, or finite
where it is infinite; *beyond* are further rows that are off by more than {LOSS_ULPS:g} ulp of what
`xent` returns for that dtype: float32 for half types, so a result in a half type is off by its own
rounding. The median and the worst are of the rows that are not wrong. `sklearn.metrics.log_loss`
is given softmax probabilities, in which a confident row has lost its digits already.

""" + _table(heads, rows)


def _provenance(line: Line) -> str:
    machine, versions = line["machine"], line["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    commit = (line["commit"] or "an unknown commit")[:12]
    changed = " with changes" if line["modified"] else ""
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    return f"""## Where it was measured

{where}; Python {line["python"]}, {packages};
commit {commit}{changed}, {line["date"]}. The measurements are in
`benchmarks/results/accuracy.jsonl`, with the case that each worst error belongs to. Other
processors and versions round elementary functions differently: the bounds are meant to hold on all
of them, the worst errors are of this one."""


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", "\u202f")


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
