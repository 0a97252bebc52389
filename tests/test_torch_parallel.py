"""Losses whose classes lie on several ranks: processes that compute together, and broken copies.

The cases are those of parallel_worker.py. They run on 1, 2 and 4 processes over gloo, which are
started once; and, as threads of this process that stand for ranks, against faults
put into the arithmetic on purpose, which they must notice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import parallel_worker
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import xent.torch
from xent.torch import parallel_derivatives, parallel_places, parallel_ranks, parallel_rows
from xent.torch.parallel import parallel_cross_entropy, parallel_linear_cross_entropy

WORKER = Path(parallel_worker.__file__)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let no operation wait for threads, which tiles this small do not repay."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_case_on_1_2_and_4_processes(tmp_path: Path) -> None:
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback}
    logs = [tmp_path / f"rank{rank}.txt" for rank in range(4)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, "-W", "error", str(WORKER), str(tmp_path), str(rank)]
            with log.open("w") as output:
                process = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, env=environment
                )
                processes.append(process)
        codes = [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    told = "\n".join(f"---- process {rank}\n{log.read_text()}" for rank, log in enumerate(logs))
    assert codes == [0] * 4, told
    for size in (1, 2, 4):
        for case in parallel_worker.CASES:
            assert told.count(f"passed: {case.__name__} on {size} in") == size, told


# ---- ranks as threads ----------------------------------------------------------------------------


class Threads:
    """Threads that stand for ranks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.local = threading.local()
        self.barrier = threading.Barrier(size)
        self.given: list[Any] = [None] * size

    def exchange(self, numbers: Any) -> Any:
        self.given[self.local.rank] = numbers
        self.barrier.wait(60)
        every = torch.stack(self.given)
        self.barrier.wait(60)
        return every

    def run(self, case: Callable[[parallel_worker.World], None]) -> list[BaseException]:
        """Run a case on every rank; return what was raised there."""
        errors: list[BaseException] = []

        def work(rank: int) -> None:
            self.local.rank = rank
            try:
                case(parallel_worker.World(rank, self.size))
            except threading.BrokenBarrierError:
                pass
            except BaseException as error:
                errors.append(error)
                self.barrier.abort()

        workers = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return errors


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    """Make `group=None` mean three threads, the last of which often has no class."""
    together = Threads(3)

    def gather(self: Any, numbers: Any) -> Any:
        return together.exchange(numbers) if self.size > 1 else numbers[None]

    def total(self: Any, numbers: Any) -> Any:
        return together.exchange(numbers).sum(0) if self.size > 1 else numbers

    def ranks_of(name: str, group: Any) -> Any:
        assert group is None
        return parallel_ranks.Ranks(None, together.size, together.local.rank)

    monkeypatch.setattr(parallel_ranks.Ranks, "gather", gather)
    monkeypatch.setattr(parallel_ranks.Ranks, "sum", total)
    monkeypatch.setattr(parallel_places, "ranks_of", ranks_of)
    return together


PANEL = [
    parallel_worker.uneven_shards_of_threads,
    parallel_worker.rows_that_are_not_finite,
    parallel_worker.confident_and_hopeless_rows,
    parallel_worker.ignored_rows,
    parallel_worker.masked_classes,
    parallel_worker.soft_targets,
    parallel_worker.statistics_and_their_gradients,
    parallel_worker.row_weights_and_normalizers,
]

# fmt: off
MUTANTS = [
    # (what is wrong, the text, what it becomes)
    ("parts have one maximum", "share = torch.exp(-gap)", "share = torch.ones_like(gap)"),
    ("every rank leaves its likeliest class out", "torch.where(owner, p[\"others\"], total)", "p[\"others\"]"),
    ("no rank leaves its likeliest class out", "torch.where(owner, p[\"others\"], total)", "total"),
    ("log(1 + others) in the place of log1p", "torch.log1p(others)", "torch.log(1.0 + others)"),
    ("the target's gap is to its own rank's maximum", "(p[\"gap\"] + _times(p[\"mass\"], gap)).sum(0)", "p[\"gap\"].sum(0)"),
    ("smoothing counts a rank's allowed classes", "whole[\"allowed\"] = p[\"allowed\"].sum(0)", "whole[\"allowed\"] = p[\"allowed\"][0]"),
    ("smoothing measures from its own rank's maximum", "(p[\"spread_gap\"] + _times(spread, gap)).sum(0)", "p[\"spread_gap\"].sum(0)"),
    ("the entropy forgets how far a rank is", "(p[\"energy\"] + _times(total, gap))", "p[\"energy\"]"),
    ("the entropy's gradient is not centred", "_times(e, -x - mean)", "_times(e, -x)"),
    ("p − 1 at a confident target", "rest = ((1.0 - e_there) + others) / total", "rest = 1.0 - e_there / total"),
    ("p − 1 at a confident soft target", "g * t * ((1.0 - e) + others)", "g * t * (total - e)"),
    ("the gradient at a target forgets the class weight", "own_mass = 1.0 if task.class_weight is None", "own_mass = 1.0 if True"),
    ("the last of equals is the likeliest", "torch.where(values == top, where, math.inf).amin(0)", "torch.where(values == top, where, -1.0).amax(0)"),
    ("a target out of range costs nothing", "gap = torch.where(outside & looked, math.nan, gap)", "gap = gap"),
    ("0·∞ is not made 0", "(mass == 0) & (gap == math.inf)", "(mass == 0) & (gap == -math.inf)"),
    ("rows that do not count are looked at", "z if task.kept is None else", "z if True else"),
    ("the softcap moves masked classes", "torch.where(z == -math.inf, z, task.softcap", "torch.where(z == math.inf, z, task.softcap"),
    ("the gradient does not know the softcap", "slope = torch.cosh(z / task.softcap).square_().reciprocal_()", "slope = torch.ones_like(z)"),
    ("the log-sum-exp does not know the temperature", "logsumexp = top / task.temperature + log_sum", "logsumexp = top + log_sum"),
    ("the gradient does not know the temperature", "slope.div_(task.temperature)", "slope.div_(1.0)"),
    ("a rank's classes start at 0", "low = task.first + own.start\n    if not", "low = own.start\n    if not"),
]
# fmt: on


def broken(text: str, becomes: str) -> ModuleType:
    path = Path(parallel_rows.__file__)
    source = path.read_text()
    assert source.count(text) == 1, f"the text must be there once, is {source.count(text)} times"
    module = ModuleType("xent.torch.parallel_rows_broken")
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(source.replace(text, becomes), str(path), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]
    return module


@pytest.mark.parametrize("case", PANEL, ids=lambda case: case.__name__)
def test_threads_agree_with_one_process(case: Any, threads: Threads) -> None:
    for error in threads.run(case):
        raise error


@pytest.mark.parametrize(("text", "becomes"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS])
def test_a_fault_is_noticed(
    text: str, becomes: str, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = broken(text, becomes)
    for name in ("part_of", "merged", "finished", "gradient_of"):
        monkeypatch.setattr(parallel_derivatives, name, getattr(module, name))
    for case in PANEL:
        errors = threads.run(case)
        if errors:
            assert all(isinstance(error, AssertionError) for error in errors), errors
            return
    raise AssertionError("no case noticed")


# ---- memory --------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


def test_logits_of_a_product_are_never_there_at_once() -> None:
    rows, classes, features, workspace = 200, 6000, 16, 1 << 20
    hidden = torch.randn(rows, features, requires_grad=True)
    weight = torch.randn(classes, features, requires_grad=True)
    with Largest() as seen:
        parallel_linear_cross_entropy(
            hidden, weight, torch.arange(rows), workspace_bytes=workspace
        ).backward()
    assert seen.bytes <= workspace < 4 * rows * classes
    with Largest() as seen:  # the watch sees what it should
        parallel_linear_cross_entropy(hidden, weight, torch.arange(rows))
    assert seen.bytes == 4 * rows * classes


@pytest.mark.parametrize("workspace", [1 << 20, 1 << 23, 1 << 28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tiles_fit_the_workspace(workspace: int, dtype: torch.dtype) -> None:
    for rows in (0, 1, 100, 8192):
        for classes in (0, 1, 5003, 128256):
            for features in (1, 768, 8192):
                hidden = torch.empty(rows, features, dtype=dtype, device="meta")
                weight = torch.empty(classes, features, dtype=dtype, device="meta")
                plan = parallel_derivatives.plan_of(hidden, weight, workspace)
                size = plan.dtype.itemsize
                height, width = min(plan.rows, max(1, rows)), min(plan.classes, max(1, classes))
                needs = height * width * size + max(1, plan.step) * width * 64
                if plan.dtype != dtype:
                    needs += (height + 2 * width) * features * size
                assert needs <= workspace, (rows, classes, features, plan)


# ---- alone ---------------------------------------------------------------------------------------


def test_one_process_needs_no_group() -> None:
    assert not torch.distributed.is_initialized()
    logits, target = torch.randn(4, 5), torch.arange(4)
    got = parallel_cross_entropy(logits, target, label_smoothing=0.1)
    want = xent.torch.cross_entropy(logits, target, label_smoothing=0.1)
    torch.testing.assert_close(got, want, rtol=5e-7, atol=0)
    assert got.dtype == want.dtype


def test_results_have_the_dtypes_of_the_drop_in() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        logits = torch.randn(4, 5).to(dtype)
        for target in (torch.arange(4), torch.full((4, 5), 0.2)):
            got = parallel_cross_entropy(logits, target)
            want = xent.torch.cross_entropy(logits, target)
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want)


# torch asks for the .grad of what is no leaf where a compiled function is left and entered again
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_callers_run_it_eagerly() -> None:
    logits, target = torch.randn(4, 5, requires_grad=True), torch.arange(4)

    def loss(z: Any) -> Any:
        return parallel_cross_entropy(z * 2.0, target) + 1.0

    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(compiled(logits), loss(logits))
    (got,) = torch.autograd.grad(compiled(logits), logits)
    (want,) = torch.autograd.grad(loss(logits), logits)
    torch.testing.assert_close(got, want)
