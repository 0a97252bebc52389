"""The GPU's row kernel against the oracle.

Triton decides at import whether kernels are compiled or interpreted, and by then another test may
have imported it. So this module has two lives: where the variable TRITON_INTERPRET is set or there
is a GPU, the tests run here; anywhere else one test runs this file again in a process of its own
with the variable set, and fails if anything there fails or is skipped. What needs the compiler, and
no GPU, is tested in this process.
"""

from __future__ import annotations

import functools
import importlib.util
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import mpmath as mp
import numpy as np
import oracle
import pytest
import torch

from xent.errors import OptionError
from xent.losses.cases import CASES, GRADIENT, LOSS_ULPS, SMALLEST
from xent.losses.kernels import SoftmaxRows, triton_host, triton_rows

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
PANEL_RUNS_HERE = INTERPRETED or DEVICE == "cuda"
PACKAGE = Path(triton_rows.__file__).parent
# Python plays the device: NumPy warns of overflows that a GPU passes over, and the kernel selects away.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def only(condition):
    """Keep a test where it can run; elsewhere it is not there, so that none is ever skipped."""
    return lambda test: test if condition else None


here, elsewhere, compiles = only(PANEL_RUNS_HERE), only(not PANEL_RUNS_HERE), only(not INTERPRETED)

BY_NAME = {case.name: case for case in CASES}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HALF_SPACING = {"float32": (0.0, 0.0), "bfloat16": (2.0**-8, 2.0**-134), "float16": (2.0**-11, 2.0**-25)}  # fmt: skip
kernel = triton_rows  # mutants take its place


@pytest.fixture(autouse=True, scope="module")
def _round_bfloat16_as_gpus_do():
    """Mend the interpreter: it cuts bits off where GPUs round, and loses subnormal numbers."""
    if not INTERPRETED:
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    broken = interpreter._convert_float

    def mended(x, source, target, rounding):
        if source == tl.bfloat16 and target == tl.float32:
            return x.astype(np.uint32) << 16
        if source == tl.float32 and target == tl.bfloat16:
            return (
                torch.from_numpy(np.array(x))
                .to(torch.bfloat16)
                .view(torch.int16)
                .numpy()
                .view(np.uint16)
            )
        return broken(x, source, target, rounding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", mended)
        # Tensors on the CPU are worked on in place: copying them back would touch every page.
        patch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *_: None)
        # Each call of a device function prepares the language anew, half of the time: once will do.
        prepare, prepared = interpreter._patch_lang, {}

        def prepare_once(function):
            used = frozenset(name for name in ("tl", "core") if name in function.__globals__)
            if used not in prepared:
                prepared[used] = prepare(function)
            return interpreter._LangPatchScope()

        patch.setattr(interpreter, "_patch_lang", prepare_once)
        yield
        for scope in reversed(prepared.values()):
            scope.restore()


@pytest.fixture(autouse=True)
def _poison_memory():
    """Let `torch.empty` return NaN, so that what is not written shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@here
def test_memory_is_poisoned():
    assert torch.isnan(torch.empty(3, device=DEVICE)).all()


# ---- rows and what is right for them ----------------------------------------------------------------


def on_device(x, dtype=None):
    return None if x is None else torch.as_tensor(np.array(x)).to(device=DEVICE, dtype=dtype)


def exactly(x):
    """Return a tensor's numbers in float64."""
    return x.detach().double().cpu().numpy()


def rows_of(z, t, *, dtype=torch.float32, class_weight=None, label_smoothing=0.0, **options):
    """Return the rows of a matrix, and the matrix that the dtype holds."""
    logits = on_device(z, dtype)
    targets = on_device(t)
    return SoftmaxRows(
        logits[..., None],
        targets[..., None],
        class_weight=on_device(class_weight, torch.float64),
        smoothing=label_smoothing,
        **options,
    ), exactly(logits)


@functools.cache
def _exact(z, t, options, soft):
    options = {name: list(v) if isinstance(v, tuple) else v for name, v in options}
    return oracle.softmax_row(
        np.frombuffer(z), np.frombuffer(t) if soft else int(np.frombuffer(t)[0]), **options
    )


def exact_row(z, t, options):
    frozen = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in options.items())
    t = np.asarray(t, dtype=np.float64)
    return _exact(z.astype(np.float64).tobytes(), t.tobytes(), frozen, t.ndim == 1)


def assert_loss(value, truth, note):
    error = oracle.ulps(value, truth, np.float32)
    assert error <= LOSS_ULPS, f"{note}: {value!r} for {mp.nstr(truth, 20)}: {error} ulp"


def assert_gradient(got, row, w, dtype, relative, note):
    """Hold one row's gradient to the bound of `xent.losses.cases`; half types round it once more."""
    _, truth, p, masses = row
    relative_spacing, least = HALF_SPACING[dtype]
    weight = sum(masses)
    for j, (g, slope) in enumerate(zip(got, truth, strict=True)):
        entry = w * slope
        error = abs(mp.mpf(float(g)) - entry)
        lost = w * SMALLEST + least + relative_spacing * abs(entry)
        scale = max(w * (weight * p[j] + abs(masses[j])), abs(entry))
        said = f"{note}, class {j}: {g!r} for {mp.nstr(entry, 20)}"
        assert error <= GRADIENT * scale + lost, said
        if relative and masses[j] in (0, weight) and abs(slope) > SMALLEST:
            assert error <= GRADIENT * abs(entry) + lost, said


def check_rows(z, t, dtype="float32", **options):
    """Compare loss and gradient with the oracle, the gradient computed in both ways."""
    rows, exact_z = rows_of(z, t, dtype=DTYPES[dtype], **options)
    generator = np.random.default_rng(7)
    weight, cotangent = generator.uniform(0.5, 2.0, (2, len(exact_z), 1)).astype(np.float32)
    scale = np.float32(generator.uniform(0.5, 2.0))
    rows = SoftmaxRows(**{**rows.__dict__, "row_weight": on_device(weight)})
    statistics, at_once = kernel.forward_with_gradient(rows, on_device(scale))
    if dtype == "float32":
        alone = kernel.forward(rows)
        assert torch.equal(alone.loss, statistics.loss)
        assert torch.equal(alone.saved, statistics.saved)
    poisoned = torch.full_like(rows.logits, torch.nan)
    later = kernel.backward(rows, statistics.saved, on_device(cotangent), poisoned)
    assert later is poisoned
    assert statistics.loss.dtype == torch.float32
    assert at_once.dtype == rows.logits.dtype
    relative = np.ndim(t) == 1 and options.get("softcap") is None
    for i, row_z in enumerate(exact_z):
        truth = exact_row(row_z, t[i], options)
        assert_loss(float(statistics.loss[i, 0]), truth[0], f"row {i}")
        for gradient, factor in ((at_once, scale), (later, cotangent[i, 0])):
            w = float(weight[i, 0]) * float(factor)
            assert_gradient(exactly(gradient[i, :, 0]), truth, w, dtype, relative, f"row {i}")


def check_case(name, dtype="float32", every=1, block=None):
    case = BY_NAME[name]
    z, t = case.build(np.float16 if dtype == "float16" else np.float64)
    with pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(kernel, "LONGEST_BLOCK", block)
        check_rows(z[::every], t[::every], dtype, **case.options)


@here
@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize(("dtype", "every"), [("float32", 4), ("bfloat16", 24), ("float16", 24)])
def test_every_case_is_right(name, dtype, every):
    check_case(name, dtype, every)


@here
@pytest.mark.parametrize("name", BY_NAME)
def test_every_case_is_right_in_several_blocks(name):
    check_case(name, every=16, block=8 if name != "a thousand classes" else 128)


# ---- options that the cases do not have ----------------------------------------------------------


def random_rows(rows=6, classes=11, seed=0):
    generator = np.random.default_rng(seed)
    z = (4.0 * generator.standard_normal((rows, classes))).astype(np.float32)
    return generator, z, generator.integers(0, classes, rows)


def check_masses_of_any_kind(block=None):
    generator, z, _ = random_rows()
    z[1, 3:5] = -np.inf
    masses = generator.uniform(0.0, 3.0, z.shape)
    masses[1, 3:5] = 0.0
    with pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(kernel, "LONGEST_BLOCK", block)
        weight = list(generator.uniform(0.1, 3.0, 11))
        check_rows(
            z, masses, class_weight=weight, label_smoothing=0.2, z_loss=0.01, temperature=1.7
        )
        check_rows(z, masses.astype(np.float32), "bfloat16")


@here
@pytest.mark.parametrize("block", [None, 8])
def test_masses_need_not_sum_to_one(block):
    check_masses_of_any_kind(block)


@here
def test_masses_may_be_negative():
    _, z, _ = random_rows()
    t = np.where(np.arange(11) % 2, 1.0, -0.25) * np.ones_like(z)
    statistics = kernel.forward(rows_of(z, t)[0])
    for i, row in enumerate(z):
        truth = exact_row(row, t[i], {})[0]
        assert float(statistics.loss[i, 0]) == pytest.approx(float(truth), rel=1e-5)


@here
@pytest.mark.parametrize("block", [None, 8])
def test_all_options_at_once_are_right(block, monkeypatch):
    if block:
        monkeypatch.setattr(kernel, "LONGEST_BLOCK", block)
    generator, z, t = random_rows()
    z[0, 2:4] = -np.inf
    t[0] = 5
    weight = list(generator.uniform(0.1, 3.0, 11))
    options = {"class_weight": weight, "label_smoothing": 0.2, "z_loss": 0.25, "temperature": 0.75, "softcap": 9.0}  # fmt: skip
    check_rows(z, t, **options)
    check_rows(z, t, "bfloat16", **{**options, "softcap": None})


def check_infinite_logits_under_a_softcap(block=None):
    """What lies far beyond the cap, +∞ too, is as good as each other: the cap itself."""
    options = {"softcap": 3.0, "z_loss": 0.1, "temperature": 1.5}
    _, z, _ = random_rows()
    z[:, 9] = -np.inf
    far, near = z.copy(), z.copy()
    far[:, 2], near[:, 2] = np.inf, 200.0
    far[1:4, 10], near[1:4, 10] = 1e30, 200.0
    targets = np.array([2, 2, 10, 0, 3, 2])
    with pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(kernel, "LONGEST_BLOCK", block)
        check_rows(near, targets, **options)
        found, wanted = (
            kernel.forward_with_gradient(rows_of(x, targets, **options)[0], on_device(1.0))
            for x in (far, near)
        )
        assert torch.equal(found[0].loss, wanted[0].loss)
        assert torch.equal(found[0].logsumexp, wanted[0].logsumexp)
        assert torch.equal(found[1], wanted[1])
        far[:, 5] = np.nan
        assert kernel.forward(rows_of(far, targets, **options)[0]).loss.isnan().all()


@here
@pytest.mark.parametrize("block", [None, 8])
def test_infinite_logits_are_the_softcap_where_there_is_one(block):
    check_infinite_logits_under_a_softcap(block)


@here
@pytest.mark.parametrize("block", [None, 8])
def test_logits_that_are_small_beside_a_wide_gap_keep_their_digits(block, monkeypatch):
    if block:
        monkeypatch.setattr(kernel, "LONGEST_BLOCK", block)
    generator = np.random.default_rng(3)
    z = 1e-3 * generator.standard_normal((4, 19))
    z[np.arange(4), [0, 7, 8, 18]] = [60.0, 80.0, 85.0, 100.0]
    check_rows(z, np.array([0, 7, 8, 18]))
    check_rows(z, np.array([1, 2, 9, 0]), temperature=1.3)


# ---- statistics and their cotangents -------------------------------------------------------------


def reference(z, options):
    """Return log-sum-exp and entropy in float64, differentiable, for logits without −∞ in sums."""
    masked = z == -torch.inf
    x = torch.where(masked, 0.0, z)
    if options.get("softcap"):
        x = options["softcap"] * torch.tanh(x / options["softcap"])
    x = torch.where(masked, -torch.inf, x / options.get("temperature", 1.0))
    lse = torch.logsumexp(x, -1)
    log_p = x - lse[:, None]
    return lse, -torch.where(masked, 0.0, log_p.exp() * torch.where(masked, 0.0, log_p)).sum(-1)


def check_statistics(block=None):
    for options in ({}, {"temperature": 2.5}, {"softcap": 6.0, "temperature": 0.5}):
        generator, z, t = random_rows()
        z[2, 1:4] = -np.inf
        rows, exact_z = rows_of(z, t, **options)
        with pytest.MonkeyPatch.context() as patch:
            if block:
                patch.setattr(kernel, "LONGEST_BLOCK", block)
            cotangents = on_device(generator.standard_normal((3, len(z), 1)))
            got = kernel.forward(rows, entropy=True)
            gradient = kernel.backward(
                rows, got.saved, cotangents[0], logsumexp=cotangents[1], entropy=cotangents[2]
            )
            no_loss = kernel.backward(rows, got.saved, None, logsumexp=cotangents[1])
        exact = torch.tensor(exact_z, requires_grad=True)
        lse, entropy = reference(exact, options)
        for value, truth in ((got.logsumexp, lse), (got.entropy, entropy)):
            np.testing.assert_allclose(exactly(value)[:, 0], truth.detach(), rtol=3e-7, atol=0)
        x = exact / 1.0
        if "softcap" in options:
            x = torch.where(
                x == -torch.inf, x, options["softcap"] * torch.tanh(x / options["softcap"])
            )
        loss = torch.nn.functional.cross_entropy(
            x / options.get("temperature", 1.0), torch.tensor(t), reduction="none"
        )
        c = cotangents[..., 0].cpu()
        (truth,) = torch.autograd.grad(
            (c[0] * loss + c[1] * lse + c[2] * entropy).sum(), exact, retain_graph=True
        )
        np.testing.assert_allclose(exactly(gradient)[..., 0], torch.nan_to_num(truth), rtol=0, atol=2e-6 / options.get("temperature", 1.0))  # fmt: skip
        (truth,) = torch.autograd.grad((c[1] * lse).sum(), exact)
        np.testing.assert_allclose(
            exactly(no_loss)[..., 0], torch.nan_to_num(truth), rtol=1e-6, atol=1e-30
        )


@here
@pytest.mark.parametrize("block", [None, 8])
def test_statistics_and_their_gradients_are_right(block):
    check_statistics(block)


@here
def test_the_derivative_by_an_entropy_that_was_not_computed_is_refused():
    rows, _ = rows_of(*random_rows()[1:])
    saved = kernel.forward(rows).saved
    with pytest.raises(OptionError, match=r"needs 3 numbers of each row: got 2\. Hint:"):
        kernel.backward(rows, saved, None, entropy=on_device(1.0))


# ---- rows that are not looked at, and rows that are not defined ---------------------------------------


def check_ignored_rows():
    _, z, t = random_rows()
    z[1], z[4] = np.nan, np.inf
    t[1] = -100
    t[4] = 99
    weight = np.ones((6, 1))
    weight[4] = 0.0
    rows, _ = rows_of(z, t, ignore_index=-100, row_weight=on_device(weight))
    statistics = kernel.forward(rows, entropy=True)
    gradient = kernel.backward(
        rows, statistics.saved, on_device(1.0), torch.full_like(rows.logits, torch.nan)
    )
    for i in range(6):
        looked_at = i not in (1, 4)
        for value in statistics[:3]:
            assert bool(value[i, 0] != 0) == looked_at
        assert bool((gradient[i] != 0).any()) == looked_at
        assert bool(torch.isfinite(gradient[i]).all())
    assert torch.isfinite(statistics.saved).all()


@here
def test_ignored_rows_are_not_looked_at():
    check_ignored_rows()


def check_undefined_rows():
    for block in (None, 8):
        _, z, t = random_rows(rows=9)
        z[0, 2], z[1, 10], z[2] = np.nan, np.inf, -np.inf
        t[3], t[4], t[5], t[6] = -1, 11, 2**40, 15
        good = np.array([7, 8])
        for options in ({}, {"smoothing": 0.1}, {"softcap": 30.0}):
            rows, _ = rows_of(z, t)
            rows = SoftmaxRows(**{**rows.__dict__, **options})
            with pytest.MonkeyPatch.context() as patch:
                if block:
                    patch.setattr(kernel, "LONGEST_BLOCK", block)
                statistics, gradient = kernel.forward_with_gradient(rows, on_device(1.0))
                few = SoftmaxRows(
                    **{**rows.__dict__, "logits": rows.logits[good], "targets": rows.targets[good]}
                )
                wanted, slopes = kernel.forward_with_gradient(few, on_device(1.0))
            bad = [0, 2, 3, 4, 5, 6] if rows.softcap else [*range(7)]  # +∞ is the cap under one
            assert torch.isnan(statistics.loss[bad]).all()
            assert torch.isnan(gradient[bad]).all()
            assert torch.isfinite(statistics.loss[1]).all() == bool(rows.softcap)
            assert torch.equal(statistics.loss[good], wanted.loss)
            assert torch.equal(gradient[good], slopes)
            assert torch.isfinite(slopes).all()


@here
def test_undefined_rows_are_nan_and_leave_the_others_right():
    check_undefined_rows()


# ---- the same bits -----------------------------------------------------------------------------------


def results(rows):
    statistics, gradient = kernel.forward_with_gradient(rows, on_device(0.7))
    return statistics.loss, statistics.logsumexp, gradient


def assert_same(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a.cpu().contiguous(), b.cpu().contiguous())


def check_layouts():
    _, z, t = random_rows(rows=12, classes=37)
    rows, _ = rows_of(z, t)
    wanted = results(rows)
    # The same rows as places of an inner dimension, in every memory order.
    wide = rows.logits.reshape(3, 4, 37)
    y = rows.targets.reshape(3, 4)
    for logits in (
        wide.movedim(2, 1),  # classes are neighbours
        wide.movedim(2, 1).contiguous(),  # places are neighbours
        wide.movedim(2, 1).repeat_interleave(2, 2)[:, :, ::2],
        torch.cat([wide.movedim(2, 1)] * 2, 1)[:, :37],
    ):
        loss, lse, gradient = results(SoftmaxRows(logits, y))
        assert gradient.stride() == torch.empty_like(logits).stride()
        got = (loss.reshape(12, 1), lse.reshape(12, 1), gradient.movedim(1, 2).reshape(12, 37, 1))
        assert_same(got, wanted)
    # Many places, so that lanes are inner places.
    many = rows.logits[:, :, 0].T[None].contiguous()
    loss, lse, gradient = results(SoftmaxRows(many, rows.targets.T))
    assert_same((loss.T, lse.T, gradient[0].T[..., None]), wanted)


@here
@pytest.mark.parametrize("block", [None, 16])
def test_a_rows_bits_do_not_depend_on_its_place_in_memory(block, monkeypatch):
    if block:
        monkeypatch.setattr(kernel, "LONGEST_BLOCK", block)
    check_layouts()


@here
@pytest.mark.parametrize("block", [None, 16])
def test_a_rows_bits_do_not_depend_on_the_batch(block, monkeypatch):
    if block:
        monkeypatch.setattr(kernel, "LONGEST_BLOCK", block)
    _, z, t = random_rows(rows=40, classes=37)
    rows, _ = rows_of(z, t)
    wanted = results(rows)
    assert_same(results(rows), wanted)
    for chosen in ([3], [31, 0, 5]):
        few = SoftmaxRows(rows.logits[chosen], rows.targets[chosen])
        assert_same(results(few), [a[chosen] for a in wanted])


@here
def test_expanded_tensors_are_right():
    _, z, t = random_rows(rows=1)
    rows, _ = rows_of(z, t)
    wanted = results(rows)
    loss, lse, gradient = results(
        SoftmaxRows(rows.logits.expand(5, 11, 1), rows.targets.expand(5, 1))
    )
    assert_same((loss, lse, gradient), [a.expand(5, *a.shape[1:]) for a in wanted])
    one = rows.logits[:, :1].expand(1, 11, 1)
    loss, _, gradient = results(SoftmaxRows(one, rows.targets))
    assert float(loss[0, 0]) == pytest.approx(np.log(11), rel=1e-7)
    assert gradient.sum().abs() < 1e-6


def check_hard_equals_one_hot(block=None):
    generator, z, t = random_rows(rows=5)
    z[0, 1:3] = -np.inf
    one_hot = np.eye(11)[t]
    weight = generator.uniform(0.1, 3.0, 11)
    for options in (
        {},
        {"class_weight": weight},
        {"z_loss": 0.1, "temperature": 1.3},
        {"softcap": 5.0},
        {"label_smoothing": 0.1, "class_weight": weight},
    ):
        with pytest.MonkeyPatch.context() as patch:
            if block:
                patch.setattr(kernel, "LONGEST_BLOCK", block)
            hard = results(rows_of(z, t, **options)[0])
            assert_same(results(rows_of(z, one_hot, **options)[0]), hard)


@here
@pytest.mark.parametrize("block", [None, 8])
def test_a_hard_target_equals_its_one_hot_row_to_the_bit(block):
    check_hard_equals_one_hot(block)


@here
@pytest.mark.parametrize("index", [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_any_index_dtype_is_the_same_target(index):
    rows, _ = rows_of(*random_rows()[1:])
    assert_same(results(SoftmaxRows(rows.logits, rows.targets.to(index))), results(rows))


@here
@pytest.mark.parametrize("shape", [(0, 3, 1), (2, 3, 0), (0, 3, 0)])
def test_no_rows_are_no_work(shape):
    logits = torch.empty(shape, device=DEVICE)
    y = torch.empty((shape[0], shape[2]), dtype=torch.int64, device=DEVICE)
    statistics, gradient = kernel.forward_with_gradient(SoftmaxRows(logits, y), on_device(1.0))
    assert statistics.loss.shape == (shape[0], shape[2])
    assert gradient.shape == shape


# ---- memory ------------------------------------------------------------------------------------------


def _vast(entries):
    """Return bfloat16 memory of which only the pages that are touched exist.

    There is as much before it as an offset that wraps around at 32 bits can go back: such a fault
    reads zeros there, not what is not there.
    """
    before = 2**31
    if DEVICE == "cuda":
        return torch.zeros(before + entries, dtype=torch.bfloat16, device=DEVICE)[before:]
    unreserved = getattr(
        mmap, "MAP_NORESERVE", 0x4000
    )  # Linux's; Python does not name it everywhere
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved
    memory = mmap.mmap(-1, 2 * (before + entries), flags=flags)
    return torch.frombuffer(memory, dtype=torch.bfloat16)[before:]


def check_far_strides():
    _, z, t = random_rows(rows=3, classes=5)
    rows, _ = rows_of(z, t, dtype=torch.bfloat16)
    wanted = results(rows)
    far = 2**31 + 64
    # In turn the rows, the classes and the places lie so far apart.
    for shape, strides in (
        ((3, 5, 1), (far, 1, 1)),
        ((3, 5, 1), (8, far // 2, 1)),
        ((1, 5, 3), (1, 8, far)),
    ):
        data = wanted_logits = rows.logits if shape[0] == 3 else rows.logits.permute(2, 1, 0)
        memory = _vast(2 * far + 128)
        logits, gradient = (memory[start:].as_strided(shape, strides) for start in (0, 40))
        logits.copy_(data)
        y = rows.targets if shape[0] == 3 else rows.targets.T
        statistics = kernel.forward(SoftmaxRows(logits, y))
        assert torch.equal(logits, wanted_logits)
        kernel.backward(SoftmaxRows(logits, y), statistics.saved, on_device(0.7), gradient)
        loss = statistics.loss if shape[0] == 3 else statistics.loss.T
        assert_same(
            (loss, gradient if shape[0] == 3 else gradient.permute(2, 1, 0)), (wanted[0], wanted[2])
        )


@here
def test_strides_may_pass_two_to_the_31_entries():
    check_far_strides()


class _Launches:
    """Stands in for the kernel and keeps what it is launched with."""

    def __init__(self):
        self.made = []

    def __getitem__(self, grid):
        return lambda *args, **options: self.made.append((grid, args, options))


def launch_on_nothing(act=lambda _: None):
    """Launch with tensors that have no values at all: looking at one raises."""
    from xent.losses.kernels import triton_tiles

    launches = _Launches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_tiles, "rows", launches)
        weight = torch.empty((70, 2), device="meta")
        rows = SoftmaxRows(
            torch.empty((70, 33, 2), device="meta"), torch.empty((70, 2), dtype=torch.int64, device="meta"),
            class_weight=torch.empty(33, device="meta"), row_weight=weight, smoothing=0.1, softcap=30.0, z_loss=1e-4,
        )  # fmt: skip
        saved = triton_rows.forward(rows, entropy=True).saved
        triton_rows.forward_with_gradient(rows, torch.empty((), device="meta"))
        triton_rows.backward(rows, saved, weight, entropy=weight, logsumexp=weight)
        act(weight)
    return launches.made


def test_the_host_looks_at_no_value():
    made = launch_on_nothing()
    assert len(made) == 3
    for grid, _, options in made:
        assert grid[0] * options["ROWS"] >= 140
        assert options["enable_fp_fusion"] is False


def test_the_test_of_that_can_fail():
    for act in (lambda w: w.sum().item(), lambda w: w.cpu(), lambda w: bool(w.any())):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            launch_on_nothing(act)


# ---- what is refused ---------------------------------------------------------------------------------


def _some(dtype=torch.float32, targets=torch.int64, soft=False, classes=3, device="cpu", **options):
    t = torch.zeros((2, classes, 1) if soft else (2, 1), dtype=targets, device=device)
    return SoftmaxRows(torch.zeros((2, classes, 1), dtype=dtype, device=device), t, **options)


@here
@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (SoftmaxRows(np.zeros((2, 3, 1)), np.zeros((2, 1))), "it takes torch tensors, and the logits are of type numpy.ndarray"),
        (_some(torch.float64), "it computes entries in float32, and the logits are float64"),
        (_some(torch.int64), "it takes float32, bfloat16 and float16, and the logits are torch.int64"),
        (_some(classes=0), "it needs a class, and the logits have none"),
        (_some(targets=torch.bool), "it takes targets of the dtypes torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, and they are torch.bool"),
        (_some(targets=torch.int64, soft=True), "it takes targets of the dtypes torch.float32, torch.bfloat16, torch.float16, torch.float64, and they are torch.int64"),
        (_some(targets=torch.float32, soft=True, ignore_index=3), "it finds ignore_index among class indices, and the targets are masses"),
        (_some(device="meta"), "it runs on NVIDIA and AMD GPUs, and the logits are on the device 'meta'"),
        (_some(row_weight=torch.ones((2, 1), device="meta")), f"it needs one device, and row_weight is on meta, not on {DEVICE}"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_with_a_reason(rows, reason):
    if DEVICE == "cuda" and torch.is_tensor(rows.logits) and rows.logits.device.type == "cpu":
        rows = SoftmaxRows(
            **{**rows.__dict__, "logits": rows.logits.cuda(), "targets": rows.targets.cuda()}
        )
    assert triton_rows.refuses(rows) == reason


@here
def test_what_can_run_is_not_refused():
    assert triton_rows.refuses(rows_of(*random_rows()[1:])[0]) is None


@elsewhere
def test_the_cpu_is_refused_unless_the_kernel_is_interpreted():
    said = triton_rows.refuses(_some())
    assert said == "it runs on NVIDIA and AMD GPUs, and the logits are on the device 'cpu'"


@pytest.fixture
def forgetful():
    triton_host._refuses_triton.cache_clear()
    yield
    triton_host._refuses_triton.cache_clear()


@pytest.mark.usefixtures("forgetful")
def test_without_triton_it_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert triton_host._refuses_triton() == "it needs triton, which is not installed"


@pytest.mark.usefixtures("forgetful")
def test_an_old_triton_is_refused(monkeypatch):
    import triton

    monkeypatch.setattr(triton, "__version__", "3.3.1")
    said = triton_host._refuses_triton()
    assert said == "it needs triton 3.4 or newer, and 3.3.1 is installed"


def test_the_host_half_imports_neither_torch_nor_triton():
    code = (
        "import sys, xent, xent.losses.kernels.triton_rows\n"
        "print(sorted({'torch', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- faults put in on purpose --------------------------------------------------------------------------

ARITHMETIC, TILES = "triton_arithmetic", "triton_tiles"
HOST, LAUNCH = "triton_host", "triton_rows"

# fmt: off
MUTANTS = [
    # (what is wrong, where, the text, what it becomes, the check that notices)
    ("differences lose their rounding errors", ARITHMETIC, "return high, (a - (high - part)) + (b - part)", "return high, 0.0 * part", lambda: check_case("confident, low temperature")),
    ("the product with log₂e/T loses its rounding error", ARITHMETIC, "tl.fma(low, rate, error)", "low * rate", lambda: check_case("gaps to 90, right")),
    ("log₂e/T is a float32", ARITHMETIC, "tl.fma(high, rest, tl.fma(low, rate, error))", "tl.fma(low, rate, error)", lambda: check_case("gaps to 90, right")),
    ("the polynomial is a term short", ARITHMETIC, "p = tl.fma(r, 1.5353268827311695e-4, 1.3399003073573112e-3)", "p = 1.3399003073573112e-3 + 0.0 * r", lambda: check_case("ordinary rows")),
    ("subnormal powers count as 0", ARITHMETIC, "_FLOOR = tl.constexpr(-158.0)", "_FLOOR = tl.constexpr(-126.0)", lambda: check_case("gaps to 90, right")),
    ("log(1 + others) in the place of log1p", ARITHMETIC, "tl.where(u == 1.0, a, tl.log(u) * (a / tl.where(u == 1.0, 1.0, u - 1.0)))", "tl.log(u)", lambda: check_case("confident and right", every=4)),
    ("the likeliest class is among the others", TILES, "tl.sum(is_top.to(tl.int32), axis=1) - rises.to(tl.int32)", "tl.sum(is_top.to(tl.int32), axis=1)", lambda: check_case("ordinary rows", every=8)),
    ("equals of the likeliest class are lost", TILES, "+ equals.to(tl.float64)", "", lambda: check_case("two equal logits", every=8)),
    ("sums do not fade when the maximum rises", TILES, "tl.where(rises, so_far * fade, sums.others)", "tl.where(rises, so_far, sums.others)", lambda: check_case("ordinary rows", every=2, block=8)),
    ("the old maximum is forgotten", TILES, "tl.where(began, 1.0 + sums.others, 0.0)", "sums.others", lambda: check_case("ordinary rows", every=2, block=8)),
    ("scores do not fall when the maximum rises", TILES, "sums.score - sums.mass * rise", "sums.score", lambda: check_masses_of_any_kind(8)),
    ("smoothing's scores do not fall when the maximum rises", TILES, "sums.even_score - sums.even_mass * rise", "sums.even_score", lambda: check_case("smoothing", every=4, block=8)),
    ("the fading does not know the temperature", TILES, "tl.exp(-rise * number(numbers.rate))", "tl.exp(-rise)", lambda: check_case("high temperature", every=4, block=8)),
    ("the entropy does not fade", TILES, "spread = fade * (spread + so_far * rise)", "spread = spread + so_far * rise", lambda: check_statistics(8)),
    ("the entropy has no gradient", TILES, "turn = turn * ((wide_row.log_sum - wide_row.entropy) - x)", "turn = 0.0 * x", lambda: check_statistics()),
    ("log-sum-exp has no gradient", TILES, "drift += _read_row(cotangents.logsumexp", "drift += 0.0 * _read_row(cotangents.logsumexp", lambda: check_statistics()),
    ("long sums are float32", ARITHMETIC, "return sum_exactly(high.to(tl.float64) + low.to(tl.float64))", "return tl.sum(high, axis=1).to(tl.float64)", lambda: check_long_sums()),
    ("p − 1 at a confident target", TILES, "tl.where(is_top, row.others, (1.0 - e) + row.others) * row.inverse", "1.0 - (e * row.inverse).to(tl.float32).to(tl.float64)", lambda: check_case("confident and right", every=4)),
    ("smoothing reaches masked classes", TILES, "tl.where(z > float(\"-inf\"), wide_row.share, 0.0)", "wide_row.share + 0.0 * wide_row.others", lambda: check_case("masked classes, smoothing", every=8)),
    ("class weights are dropped from the gradient", TILES, "        u = u * block.w\n", "", lambda: check_case("z-loss, class weights", every=8)),
    ("0·∞ is not made 0", ARITHMETIC, "return tl.where(u == 0.0, 0.0, u * gap)", "return u * gap", lambda: check_case("soft targets, masked classes", every=8)),
    ("the softcap has no slope", TILES, "        g = g * slope.to(tl.float32)\n", "", lambda: check_case("softcap", every=8)),
    ("the softcap is float32", ARITHMETIC, "low = (gap - high.to(tl.float64)).to(tl.float32)", "low = 0.0 * high", lambda: check_case("wide softcap")),
    ("+∞ under a softcap is as without one", ARITHMETIC, "z = tl.where(z > most, most, z)", "z = tl.where(z > most, z, z)", check_infinite_logits_under_a_softcap),
    ("the z-loss has no weight", TILES, "number(numbers.z_loss) * weight * (lse * lse)", "number(numbers.z_loss) * (lse * lse)", lambda: check_case("z-loss, class weights", every=8)),
    ("the z-loss is not in the gradient", TILES, "drift = pull * weight * (2.0", "drift = 0.0 * pull * weight * (2.0", lambda: check_case("z-loss", every=8)),
    ("row weights are dropped", TILES, ".to(tl.float64) * factor * rate", ".to(tl.float64) * rate", lambda: check_case("ordinary rows", every=8)),
    ("ignored rows are looked at", TILES, "live = live & (weight != 0.0)", "live = live & (weight == weight)", check_ignored_rows),
    ("ignored rows keep what the memory held", TILES, "here = place.exists[:, None] & (column < shape.classes)[None, :]", "here = place.live[:, None] & (column < shape.classes)[None, :]", check_ignored_rows),
    ("a target outside the classes is silent", TILES, "bad = bad | (label.inside == 0)", "bad = bad", check_undefined_rows),
    ("NaN is silent", TILES, "tl.where(z < float(\"inf\"), z, float(\"inf\"))", "tl.where(z < float(\"inf\"), z, float(\"-inf\"))", check_undefined_rows),
    ("offsets of classes have 32 bits", TILES, "column.to(tl.int64)[None, :] * view.classes", "(column[None, :] * view.classes).to(tl.int32)", check_far_strides),
    ("offsets of rows have 32 bits", TILES, "return view.pointer + place.lane * view.lane + place.other * view.other", "return view.pointer + (place.lane * view.lane).to(tl.int32) + place.other * view.other", check_far_strides),
    ("columns past the last class are written", TILES, "here = place.live[:, None] & (column < shape.classes)[None, :]", "here = place.live[:, None] & (column >= 0)[None, :]", lambda: check_case("masked classes", every=8)),
    ("a hard target is rounded otherwise than its one-hot row", TILES, "    return g.to(tl.float32)\n", "    return (g * (1.0 + 2.0**-24)).to(tl.float32)\n", check_hard_equals_one_hot),
    ("1/T is a float32", HOST, "pair_of(1.0 / (math.log(2.0) * rows.temperature))", "(_narrow(1.0 / (math.log(2.0) * rows.temperature)), 0.0)", lambda: check_case("gaps to 90, right")),
    ("only the first place is computed", LAUNCH, "(lane_blocks * tiles.others,)", "(lane_blocks,)", lambda: check_layouts()),
]
# fmt: on


def check_long_sums():
    z = np.zeros((1, 16384), np.float32)
    z[0] = -16.0 + np.linspace(0.0, 1e-3, 16384)
    z[0, 0] = 0.0
    statistics = kernel.forward(rows_of(z, np.array([0]))[0])
    exact = np.log1p(np.exp(z[0, 1:].astype(np.float64)).sum())
    assert abs(float(statistics.loss[0, 0]) / exact - 1.0) < 2.0**-24


@here
def test_long_sums_keep_their_digits():
    check_long_sums()


def _load(name, source, folder):
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"xent.losses.kernels.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _notices(name, change, folder, check):
    """Tell whether a check fails with a module's text changed."""
    import xent.losses.kernels as package

    with pytest.MonkeyPatch.context() as patch:
        for each in (ARITHMETIC, TILES, HOST, LAUNCH):  # each imports those before it
            source = (PACKAGE / f"{each}.py").read_text(encoding="utf-8")
            module = _load(each, change(source) if each == name else source, folder)
            patch.setitem(sys.modules, module.__name__, module)
            patch.setattr(package, each, module)
        patch.setitem(globals(), "kernel", module)
        try:
            check()
        except AssertionError:
            return True
    return False


@here
@pytest.mark.parametrize(
    ("name", "old", "new", "check"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS]
)
def test_the_tests_notice_that(name, old, new, check, tmp_path):
    def change(source):
        assert old in source, "renew the mutant"
        return source.replace(old, new)

    assert _notices(name, change, tmp_path, check), "the mutant survives"


@here
def test_the_unchanged_text_passes_where_mutants_fail(tmp_path):
    for check in (check_ignored_rows, functools.partial(check_case, "ordinary rows", every=8)):
        assert not _notices(TILES, str, tmp_path, check)


# ---- what the compiler makes of it -------------------------------------------------------------------

POINTERS = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64"}  # fmt: skip


def _specialised(x, path, constants, attributes):
    """Return the type of an argument as Triton's launcher sees it, without a driver."""
    if isinstance(x, tuple):
        parts = [_specialised(v, (*path, i), constants, attributes) for i, v in enumerate(x)]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    if x is None or (isinstance(x, int) and x == 1):
        constants[path] = x
        return "constexpr"
    if isinstance(x, torch.Tensor) or (isinstance(x, int) and x % 16 == 0):
        attributes[path] = [["tt.divisibility", 16]]
    if isinstance(x, torch.Tensor):
        return POINTERS[x.dtype]
    return "fp32" if isinstance(x, float) else "i32" if abs(x) < 2**31 else "i64"


def compiled(target, launch, folder):
    """Compile what a launch would run, for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from xent.losses.kernels import triton_tiles

    launches, real = _Launches(), triton_tiles.rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_tiles, "rows", launches)
        launch()
    ((_, args, options),) = launches.made
    arguments = dict(zip(real.arg_names, args, strict=False))
    widths = {name: options.pop(name) for name in ("ROWS", "BLOCK")}
    constants, attributes, signature = {}, {}, {}
    for i, (name, x) in enumerate((arguments | widths).items()):
        signature[name] = (
            _specialised(x, (i,), constants, attributes) if name in arguments else "constexpr"
        )
        if name in widths:
            constants[i,] = x
    source = ASTSource(real, signature, constants, attributes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        return triton.compile(source, target=GPUTarget(*target), options=options).asm


def _nothing(shape, dtype=torch.bfloat16, soft=False, **options):
    logits = torch.empty(shape, dtype=dtype)
    t = torch.empty(shape) if soft else torch.empty((shape[0], shape[2]), dtype=torch.int64)
    return SoftmaxRows(logits, t, **options)


HOPPER, CDNA3 = ("cuda", 90, 32), ("hip", "gfx942", 64)


def _gradient(rows, **cotangents):
    each = torch.empty((rows.logits.shape[0], rows.logits.shape[2]))
    planes = 2 + 2 * bool(rows.soft or rows.smoothing) + 1
    saved = torch.empty((planes, *each.shape), dtype=torch.float64)
    triton_rows.backward(rows, saved, each, entropy=each, logsumexp=each)


@compiles
@pytest.mark.parametrize(
    ("target", "launch"),
    [
        (HOPPER, lambda: triton_rows.forward_with_gradient(_nothing((4, 32000, 1)), torch.empty(()))),
        (HOPPER, lambda: triton_rows.forward(_nothing((1, 1, 1), ignore_index=1), entropy=True)),
        (HOPPER, lambda: _gradient(_nothing((2, 21, 64), softcap=30.0, smoothing=0.1, class_weight=torch.empty(21)))),
        (CDNA3, lambda: triton_rows.forward_with_gradient(_nothing((64, 10, 1), torch.float32, soft=True, row_weight=torch.empty((64, 1))), torch.empty(()))),
    ],
    ids=["swept", "one class", "places, all options", "soft, AMD"],
)  # fmt: skip
def test_gpus_get_code(target, launch, tmp_path):
    made = compiled(target, launch, tmp_path)
    if target is HOPPER:
        assert len(made["cubin"]) > 1000
        # No float32 arithmetic that flushes subnormal numbers, and none that ptxas may contract.
        assert not re.search(r"\b(mul|add|sub|fma)(\.rn)?\.ftz\.f32", made["ptx"])
        assert not re.search(r"\b(mul|add|sub)\.f(32|64)", made["ptx"])
    else:
        assert len(made["hsaco"]) > 1000


@compiles
def test_a_row_that_fits_is_read_once_and_its_gradient_written_once(tmp_path):
    made = compiled(
        HOPPER,
        lambda: triton_rows.forward_with_gradient(_nothing((4, 8000, 1)), torch.empty(())),
        tmp_path,
    )
    tile = r"tensor<1x8192x!tt.ptr<bf16>>"
    assert len(re.findall(rf"tt\.load .*{tile}", made["ttir"])) == 1
    assert len(re.findall(rf"tt\.store .*{tile}", made["ttir"])) == 1
    assert re.search(r"ld\.global\S*\.v4", made["ptx"]), "neighbours are loaded one by one"
    assert "cvt.rn.bf16" in made["ptx"]


# ---- in this process ---------------------------------------------------------------------------------


@elsewhere
def test_the_kernel_is_right_in_tritons_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = re.search(r"(\d+) passed in", done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert summary, done.stdout[-2000:]
    assert int(summary[1]) > 190
