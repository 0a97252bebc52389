"""Linear cross-entropy beside its matrix products, the materialised form and torch's own chunks.

All of them in one process, in turns, forward and backward, on the same hidden states and head;
peaks of memory in processes of their own. On a CPU in float32; ``--device cuda`` takes the shape
of a large language model in bfloat16, with Liger's and Apple's kernels where they are installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear, linear_cross_entropy

import xent.torch
from benchmarks.apart import can_measure_peaks, peak_of
from benchmarks.results import ROOT, provenance, replace_part, seconds_in_words, show_progress
from xent.losses import dispatch
from xent.losses.autodiff.linear_pieces import situation_of
from xent.losses.autodiff.torch import situation
from xent.losses.kernels import LinearRows

__all__ = [
    "PAGE", "README", "SHAPES", "STORED", "TESTS", "Shape", "measure_all", "reached", "render",
    "shapes_named", "table",
]  # fmt: skip

STORED = ROOT / "benchmarks" / "results" / "linear.jsonl"
PAGE = ROOT / "docs" / "linear.md"
README = ROOT / "README.md"
TESTS = ("tests/test_torch_linear.py", "-k", "values or digits or half_types")
MIB = 2**20
SLOW = 4.0
"""Torch's chunks have one turn where they take so many times as long as the products."""
SPAN, MOST = 10.0, 20
"""Seconds of products that a shape is looked at for, unless that takes more turns than these."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """Rows, features and classes, and the dtype of hidden states and head."""

    name: str
    rows: int
    features: int
    classes: int
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def size(self) -> str:
        """Return the shape in words."""
        return f"{self.rows} × {self.features} × {self.classes}"

    @property
    def gradient_bytes(self) -> int:
        """Return what the two gradients take."""
        itemsize = getattr(torch, self.dtype).itemsize
        return itemsize * self.features * (self.rows + self.classes)


SHAPES = (
    Shape("small", 1024, 256, 32000),
    Shape("gpt2", 2048, 768, 50257),
    Shape("llama3", 512, 2048, 128256),
    Shape("llama3-gpu", 8192, 4096, 128256, "bfloat16", "cuda"),
)
QUICK = (Shape("quick", 64, 16, 1000),)


def shapes_named(names: Sequence[str] | None, device: str, *, quick: bool = False) -> list[Shape]:
    """Return the shapes of these names on a device, all of them for None."""
    there = [s for s in (QUICK if quick else SHAPES) if s.device == device or quick]
    if names is None:
        return there
    by = {s.name: s for s in there}
    for name in names:
        if name not in by:
            raise ValueError(f"no shape {name!r} on {device}: there are {', '.join(by)}")
    return [by[name] for name in names]


@dataclass(frozen=True)
class Inputs:
    """Hidden states, head and targets."""

    shape: Shape
    hidden: torch.Tensor
    head: torch.Tensor
    target: torch.Tensor

    def leaves(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states and head that ask for gradients and have none yet."""
        self.hidden.grad = self.head.grad = None
        return self.hidden, self.head


def inputs(shape: Shape) -> Inputs:
    """Make inputs whose logits have a spread of about one."""
    g = torch.Generator(shape.device).manual_seed(0)
    on = {"generator": g, "device": shape.device}
    dtype = getattr(torch, shape.dtype)
    hidden = torch.randn(shape.rows, shape.features, **on).to(dtype)
    head = (torch.randn(shape.classes, shape.features, **on) / shape.features**0.5).to(dtype)
    target = torch.randint(0, shape.classes, (shape.rows,), **on)
    return Inputs(shape, hidden.requires_grad_(), head.requires_grad_(), target)


# ---- the forms -----------------------------------------------------------------------------------


def _ours(workspace: int, reduction: str, kernel: str) -> Callable[[Inputs], torch.Tensor]:
    def run(given: Inputs) -> torch.Tensor:
        hidden, head = given.leaves()
        loss = xent.torch.linear_cross_entropy(
            hidden, head, given.target, reduction=reduction, workspace_bytes=workspace * MIB,
            out_dtype=torch.float32, kernel=kernel,
        )  # fmt: skip
        loss = loss if reduction == "mean" else (loss * _cotangents(loss)).sum()
        loss.backward()
        return loss.detach()

    return run


def _cotangents(losses: torch.Tensor) -> torch.Tensor:
    return torch.full_like(losses, 1.0 / losses.numel())


def _materialised(given: Inputs) -> torch.Tensor:
    hidden, head = given.leaves()
    loss = cross_entropy(linear(hidden, head), given.target)
    loss.backward()
    return loss.detach()


def _torch_chunked(given: Inputs) -> torch.Tensor:
    hidden, head = given.leaves()
    options = torch.nn.LinearCrossEntropyOptions()
    loss = linear_cross_entropy(hidden, head, given.target, options=options)
    loss.backward()
    return loss.detach()


def _liger(given: Inputs) -> torch.Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    hidden, head = given.leaves()
    loss = LigerFusedLinearCrossEntropyLoss()(head, hidden, given.target)
    loss.backward()
    return loss.detach()


def _cut(given: Inputs) -> torch.Tensor:
    from cut_cross_entropy import linear_cross_entropy as cut

    hidden, head = given.leaves()
    loss = cut(hidden, head, given.target)
    loss.backward()
    return loss.detach()


PRODUCTS, FOUR = "three products", "four products"
MEAN, SMALL, ROWS, BARE = "xent", "xent, 32 MiB", "xent, rows", "xent, no logits"
WHOLE, CHUNKS = "materialised", "torch, chunked"
OURS = {MEAN: 256, SMALL: 32, ROWS: 256, BARE: 256}


def systems(shape: Shape) -> dict[str, Callable[[Inputs], torch.Tensor]]:
    """Return the forms that can run here, by name."""
    found = {
        MEAN: _ours(256, "mean", "linear_chunked"),
        SMALL: _ours(32, "mean", "linear_chunked"),
        ROWS: _ours(256, "none", "linear_chunked"),
        WHOLE: _materialised,
        CHUNKS: _torch_chunked,
    }
    if shape.device == "cuda":
        found[BARE] = _ours(256, "mean", "triton_linear")
        for name, package, run in (
            ("Liger", "liger_kernel", _liger),
            ("cut-cross-entropy", "cut_cross_entropy", _cut),
        ):
            if importlib.util.find_spec(package) is not None:
                found[name] = run
    return found


def products(given: Inputs) -> dict[str, Callable[[], None]]:
    """Return the products alone, into memory that is there; four make the logits twice."""
    shape = given.shape
    hidden, head = given.hidden.detach(), given.head.detach()
    logits = torch.zeros(shape.rows, shape.classes, dtype=hidden.dtype, device=hidden.device)
    by_hidden, by_head = torch.zeros_like(hidden), torch.zeros_like(head)

    def three() -> None:
        torch.mm(hidden, head.t(), out=logits)
        torch.mm(logits, head, out=by_hidden)
        torch.mm(logits.t(), hidden, out=by_head)

    def four() -> None:
        torch.mm(hidden, head.t(), out=logits)
        three()

    return {PRODUCTS: three, FOUR: four}


def row_kernel_of(given: Inputs) -> str:
    """Return the name of the row kernel that dispatch hands to the chunked one."""
    rows = LinearRows(given.hidden, given.head, None, given.target)
    dispatch.choose(rows, "linear_chunked", situation_of(rows))
    dtype = torch.float32
    logits = torch.zeros(1, given.shape.classes, dtype=dtype, device=given.hidden.device)
    one = rows.of_logits(logits, slice(0, 1))
    return dispatch.choose(one, None, situation(one))


# ---- time and error ------------------------------------------------------------------------------


def _seconds(run: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Exact:
    """The mean loss and parts of its gradients, from float64 logits."""

    loss: float
    by_hidden: torch.Tensor
    by_head: torch.Tensor  # of the first classes
    classes: int = 64

    def errors(self, loss: torch.Tensor, given: Inputs) -> tuple[float, float, float]:
        """Return how far a form is off: the loss relatively, gradients beside their largest."""
        assert given.hidden.grad is not None
        assert given.head.grad is not None
        pairs = (
            (given.hidden.grad, self.by_hidden),
            (given.head.grad[: self.classes], self.by_head),
        )
        off = [float((a.double() - b).abs().max() / b.abs().max()) for a, b in pairs]
        return abs(float(loss) - self.loss) / self.loss, off[0], off[1]


def exact(given: Inputs) -> Exact:
    """Compute the mean loss and its gradients in float64, some rows at a time."""
    hidden, head = given.hidden.detach().double(), given.head.detach().double()
    rows, losses, by_hidden = hidden.shape[0], [], torch.zeros_like(hidden)
    by_head = torch.zeros_like(head[:64])
    for start in range(0, rows, 256):
        part = slice(start, start + 256)
        z = hidden[part] @ head.t()
        losses.append(cross_entropy(z, given.target[part], reduction="none"))
        slope = torch.softmax(z, 1)
        slope[torch.arange(slope.shape[0]), given.target[part]] -= 1.0
        by_hidden[part] = slope @ head / rows
        by_head += slope[:, :64].t() @ hidden[part] / rows
    return Exact(float(torch.cat(losses).mean()), by_hidden, by_head)


def time_shape(shape: Shape, rounds: int) -> Iterator[Line]:
    """Time all forms of a shape in turns, beside the three products; check each for its error."""
    given = inputs(shape)
    show_progress(f"{shape.name}: float64")
    truth = exact(given)
    forms = systems(shape)
    bare = products(given)
    spent: dict[str, list[float]] = {name: [] for name in (*bare, *forms)}
    errors = {}
    for run in bare.values():
        run()
    for name, form in forms.items():  # compiles, and says what it is off by
        show_progress(f"{shape.name}: {name}")
        if name == CHUNKS:
            continue
        errors[name] = truth.errors(form(given), given)
    rounds = max(rounds, min(MOST, int(SPAN / _seconds(bare[PRODUCTS], shape.device))))
    for turn in range(rounds):
        show_progress(f"{shape.name}: round {turn + 1} of {rounds}")
        for name, run in bare.items():
            run()
            spent[name].append(_seconds(run, shape.device))
        for name, form in forms.items():
            if name == CHUNKS:
                if turn and spent[name][0] > SLOW * spent[PRODUCTS][0]:
                    continue
            else:  # so that each finds the memory of its own last step, as in training
                form(given)
            result: list[torch.Tensor] = []
            spent[name].append(
                _seconds(lambda form=form, result=result: result.append(form(given)), shape.device)
            )
            errors.setdefault(name, truth.errors(result[0], given))
    for name, turns in spent.items():
        line: Line = {
            "kind": "time", "shape": shape.name, "size": shape.size, "dtype": shape.dtype,
            "form": name, "seconds": median(turns), "turns": [round(t, 6) for t in turns],
        }  # fmt: skip
        if name == PRODUCTS:
            line |= {"threads": torch.get_num_threads(), "row_kernel": row_kernel_of(given)}
        if name in errors:
            names = "loss_error", "hidden_gradient_error", "head_gradient_error"
            line |= dict(zip(names, errors[name], strict=True))
        yield line


# ---- memory --------------------------------------------------------------------------------------


def peaks(shapes: Sequence[Shape]) -> Iterator[Line]:
    """Return the peaks of memory above the inputs, each in a process of its own."""
    if not can_measure_peaks():
        return
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    for shape in shapes:
        if shape.device != "cpu":
            continue
        for name in (MEAN, SMALL, ROWS, WHOLE, CHUNKS):
            show_progress(f"{shape.name}: memory of {name}")
            words = [sys.executable, "-m", "benchmarks.linear", shape.name, name]
            done = subprocess.run(
                words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            workspace = OURS.get(name, 0) * MIB
            yield {
                "kind": "peak", "shape": shape.name, "size": shape.size, "form": name,
                "bytes": json.loads(done.stdout), "gradient_bytes": shape.gradient_bytes,
                "workspace_bytes": workspace,
            }  # fmt: skip


def _measure_peak(name: str, form: str) -> int:
    (shape,) = (s for s in (*SHAPES, *QUICK) if s.name == name)
    given = inputs(shape)
    run = systems(shape)[form]
    few = inputs(replace(shape, rows=64, classes=64))
    run(few)  # loads, compiles and starts threads
    products(few)[PRODUCTS]()

    def call() -> Any:
        run(given)
        return given.hidden.grad, given.head.grad

    return peak_of(call)[0]


def measure_all(shapes: Sequence[Shape], rounds: int) -> Iterator[Line]:
    """Measure time and error of every shape, and then memory."""
    for shape in shapes:
        for line in time_shape(shape, rounds):
            yield {**line, **provenance()}
    for line in peaks(shapes):
        yield {**line, **provenance()}


# ---- what is shown -------------------------------------------------------------------------------


def _by(lines: Sequence[Line], kind: str) -> dict[tuple[str, str], Line]:
    return {(line["shape"], line["form"]): line for line in lines if line["kind"] == kind}


def ratio(line: Line, other: Line) -> float:
    """Return how many times as long one form takes as another: the median over their turns.

    A turn is beside the other's of the same round, as the machine's own speed changes. Where one
    has fewer turns, they were the first rounds.
    """
    return median(a / b for a, b in zip(line["turns"], other["turns"], strict=False))


def table(lines: Sequence[Line]) -> str:
    """Return the figures as a table in Markdown."""
    times, memory = _by(lines, "time"), _by(lines, "peak")
    heads = (
        "rows × features × classes", "form", "forward + backward", "of the products",
        "memory beside the gradients", "loss off by", "gradients off by",
    )  # fmt: skip
    rows = [
        f"| {' | '.join(heads)} |",
        "| --- " * len(heads) + "|",
    ]
    for (shape, form), line in times.items():
        took = f"{form} | {seconds_in_words(line['seconds'])}"
        of_products = f"{ratio(line, times[shape, PRODUCTS]):.2f} ×"
        if form == PRODUCTS:
            rows.append(f"| {line['size']} | {took} | 1 | | | |")
            continue
        if form == FOUR:
            rows.append(f"| | {took} | {of_products} | | | |")
            continue
        peak = memory.get((shape, form))
        extra = "" if peak is None else f"{(peak['bytes'] - peak['gradient_bytes']) / MIB:.0f} MiB"
        off = max(line["hidden_gradient_error"], line["head_gradient_error"])
        rows.append(
            f"| | {took} | {of_products} | {extra} | {line['loss_error']:.0e} | {off:.0e} |"
        )
    return "\n".join(rows)


def reached(lines: Sequence[Line]) -> list[str]:
    """Return what was to be reached on a CPU, a line each, with whether it holds."""
    times, memory = _by(lines, "time"), _by(lines, "peak")
    told = []

    def tell(holds: bool, text: str) -> None:
        told.append(f"{'holds ' if holds else 'misses'}  {text}")

    for shape in dict.fromkeys(name for name, _ in times):
        if (shape, MEAN) not in times:
            continue
        checks = (
            (MEAN, PRODUCTS, 1.15, "the mean, of three products"),
            (ROWS, FOUR, 1.15, "rows, of four products"),
            (MEAN, WHOLE, 0.9, "the mean, of the materialised form"),
            (MEAN, CHUNKS, 1 / 3, "the mean, of torch's chunks"),
            (SMALL, MEAN, 1.3, "the mean in 32 MiB, of that in 256 MiB"),
        )
        for form, other, most, text in checks:
            figure = ratio(times[shape, form], times[shape, other])
            tell(figure <= most, f"{shape}: {text}: {figure:.3f}, {most:.3g} at most")
        for form in (MEAN, SMALL, ROWS):
            peak = memory.get((shape, form))
            if peak is not None:
                most = 1.05 * (peak["workspace_bytes"] + peak["gradient_bytes"])
                tell(
                    peak["bytes"] <= most,
                    f"{shape}: peak of {form}: {peak['bytes'] / MIB:.0f} MiB, {most / MIB:.0f} at "
                    "most (workspace, gradients and 5 %)",
                )
        ours, whole = times[shape, MEAN], times[shape, WHOLE]
        for name in ("hidden_gradient_error", "head_gradient_error"):
            most = 1.1 * whole[name] + 2.0**-23
            tell(
                ours[name] <= most,
                f"{shape}: {name.replace('_', ' ')}: {ours[name]:.1e}, {most:.1e} at most",
            )
        most = 1.1 * whole["loss_error"] + 2.0**-23
        tell(
            ours["loss_error"] <= most,
            f"{shape}: loss error: {ours['loss_error']:.1e}, {most:.1e} at most",
        )
    return told


def render(text: str, lines: Sequence[Line]) -> str:
    """Return a page with its table made from the measurements."""
    machine = lines[0]["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores, float32"
    how = "Seconds are medians over the turns, and so are ratios, each within a turn."
    return replace_part(text, "linear", f"\n{table(lines)}\n\n{where}. {how}\n")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure_peak(*sys.argv[1:])))
