"""Draw the figures of the documentation.

Run from the project's root: ``python -m tools.figures`` writes docs/figures/*.svg; a test holds
that they are up to date. Some show what the tour's own lines computed, so those are run, and one
what a benchmark stored; no number stands twice.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import fit
from benchmarks.results import read
from xent.report import plots

TOUR = Path("docs/tour.md")
FOLDER = Path("docs/figures")
WALKS = "12. Why not the squared error?"
FITTED = "200 000 × 64 × 10"
SHOWN = 100  # steps of each walk on its surface


def names_of(section: str, given: str) -> dict[str, Any]:
    """Run the examples of a section of the tour, after its first ones, and return the names."""
    page = TOUR.read_text(encoding="utf-8")
    first = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)
    own = re.search(rf"^## {re.escape(section)}\n(.*?)^## ", page, flags=re.DOTALL | re.MULTILINE)
    if first is None or own is None:
        raise LookupError(f"{TOUR} must have examples, and a section {section!r} before another")
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for example in doctest.DocTestParser().get_examples(first[1] + own[1]):
            if given not in names:
                exec(compile(example.source, str(TOUR), "exec"), names)
    return names


def figures() -> dict[str, Callable[[], str]]:
    """Return how each file is drawn."""
    names = names_of(WALKS, "walks")
    x, y, walks = names["attendance"], names["passed"], names["walks"]
    entropy, square = walks["cross-entropy"], walks["squared error"]
    excess = {
        name: [(k, step[2] - walk[-1, 2]) for k, step in enumerate(walk)]
        for name, walk in walks.items()
    }
    fits = next(fits for fits in fit.by_case(read(fit.STORED)) if fits[0].case == FITTED)
    return {
        fit.file_name(FITTED).removesuffix(".svg"): lambda: fit.figure(fits),
        "surprisal": lambda: plots.surprisal({"A": 0.7, "pass": 0.2, "fail": 0.1}),
        "blocks": lambda: plots.block_code(10, largest=30),
        "coin": plots.entropy_of_a_coin,
        "expected": lambda: plots.expected_losses(0.7),
        "binary": plots.binary_losses,
        "slopes": plots.gradients,
        "surface-cross-entropy": lambda: plots.loss_surface(
            x, y, loss="cross_entropy", path=entropy[: SHOWN + 1, :2]
        ),
        "surface-squared-error": lambda: plots.loss_surface(
            x, y, loss="squared_error", path=square[: SHOWN + 1, :2]
        ),
        "walks": lambda: plots.convergence(
            # Further down there is only rounding.
            {name: [p for p in points if p[1] > 1e-6] for name, points in excess.items()},
            across="steps",
            up="mean loss above its minimum",
            label="How far each walk is above its minimum, by steps.",
        ),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, drawn in figures().items():
        path = FOLDER / f"{name}.svg"
        path.write_text(drawn(), encoding="utf-8")
        print(f"wrote {path}")
