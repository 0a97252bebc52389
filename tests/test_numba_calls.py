"""The CPU kernels as they are called: the same bits however many, from threads, forks and caches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from row_calls import FORMS, Placed, assert_right, by_row, call, defined, forced

import xent
from xent.losses.kernels import EntryRows, cpu_rows, threads

PACKAGE = Path(xent.__file__).parent


def normal(shape, seed=0, scale=3.0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def classes_of(shape, seed=1):
    outer, classes, inner = shape
    return np.random.default_rng(seed).integers(0, classes, (outer, inner))


def hard_rows(shape, seed=0):
    """Return rows among which some are masked, wide, confident, bad, ignored or out of range."""
    values, y = normal(shape, seed), classes_of(shape)
    flat = np.moveaxis(values, 1, 2).reshape(-1, shape[1])
    flat[1::7, 0] = -np.inf
    flat[2::11] *= 1e20
    flat[3::13, -1] += 80.0
    flat[5::29, shape[1] // 2] = np.nan
    places = y.reshape(-1)
    places[4::17], places[6::31] = -100, shape[1]
    return np.moveaxis(flat.reshape(shape[0], shape[2], shape[1]), 2, 1), y


def outcome(values, y, dtype="float32", layout="plain", **options):
    z, t = Placed(values, dtype, layout), Placed(y, "int64", layout)
    return call(z, t, gradient=layout, ignore_index=-100, temperature=0.9, **options)


# ---- R12 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", FORMS)
def test_r12_the_bits_of_a_row_depend_on_that_row_alone(form, dtype):
    for shape in ((100, 11, 1), (37, 65, 1)):
        values, y = hard_rows(shape)
        with forced(form):
            together = outcome(values, y, dtype)
            for part in (
                slice(0, 1),
                slice(3, 4),
                slice(1, 9),
                slice(5, 30),
                slice(None, None, -1),
            ):
                some = outcome(values[part], y[part], dtype)
                for name in ("losses", "logsumexp", "mass", "gradient"):
                    a, b = getattr(some, name), getattr(together, name)[part]
                    assert a.tobytes() == b.tobytes(), (name, part)


def test_r12_the_bits_of_a_row_depend_on_no_layout_that_keeps_its_form():
    values, y = hard_rows((6, 9, 14))
    together = outcome(values, y)
    for layout in ("classes first", "gaps", "backwards", "turned round"):
        assert outcome(values, y, layout=layout).bits() == together.bits(), layout
    wide, y = hard_rows((6, 170, 14))
    together = outcome(wide, y, layout="classes last")
    for layout in ("rows with gaps", "classes last, rows backwards"):
        assert outcome(wide, y, layout=layout).bits() == together.bits(), layout
    for i in range(6):
        alone = outcome(values[i : i + 1], hard_rows((6, 9, 14))[1][i : i + 1])
        whole = outcome(values, hard_rows((6, 9, 14))[1])
        assert alone.gradient.tobytes() == whole.gradient[i : i + 1].tobytes()


SEVERAL_BLOCKS = [(3000, 10, 1), (5, 10, 777), (300, 1000, 1), (700, 300, 1)]


@pytest.mark.parametrize("bad", [False, True], ids=["good", "with bad rows"])
@pytest.mark.parametrize("shape", SEVERAL_BLOCKS, ids=str)
def test_r12_rows_and_sums_are_the_same_for_any_number_of_threads(shape, bad, monkeypatch):
    values, y = hard_rows(shape)
    if not bad:
        values, y = np.nan_to_num(values, nan=1.0), np.minimum(y, shape[1] - 1)
    z, t = Placed(values, "float32"), Placed(y, "int64")
    assert cpu_rows._plan(shape, (1, 1, 1), (1, 1), None, "float32", False, False).blocks > 1
    results = []
    for number in (1, 2, 3, 8):
        monkeypatch.setattr(threads, "number_of_threads", lambda number=number: number)
        got = call(z, t, ignore_index=-100)
        results.append([repr(got.sums), *got.bits()])
    assert all(result == results[0] for result in results)
    if bad:
        assert got.sums.bad == min(np.flatnonzero((y.reshape(-1) != -100) & (y.reshape(-1) < shape[1]) & np.isnan(by_row(values)).any(axis=1)))  # fmt: skip
    else:
        assert got.sums.total == pytest.approx(np.sum(got.losses), rel=1e-14)


def test_r12_sigmoid_sums_are_the_same_for_any_number_of_threads(monkeypatch):
    z, t = normal((100_003,)).astype(np.float32), np.full(100_003, 0.25, np.float32)
    results = []
    for number in (1, 2, 3, 8):
        monkeypatch.setattr(threads, "number_of_threads", lambda number=number: number)
        losses, gradient = np.empty(z.size), np.empty_like(z)
        sums = cpu_rows.sigmoid(EntryRows(z, t), losses=losses, gradient=gradient)
        results.append((sums, losses.tobytes(), gradient.tobytes()))
    assert all(result == results[0] for result in results)
    assert results[0][0].total == pytest.approx(losses.sum(), rel=1e-14)


def test_the_cotangent_and_the_scale_multiply_each_row():
    shape = (30, 12, 1)
    z, t = Placed(normal(shape), "float32"), Placed(classes_of(shape), "int64")
    plain = call(z, t, asks="gradient")
    for w in (0.5, -2.0, 2.0**20):  # powers of two round nothing
        both = call(z, t, asks="gradient", cotangent=np.full(30, w), scale=4.0)
        np.testing.assert_allclose(both.slopes, 4.0 * w * plain.slopes, rtol=3e-7, atol=1e-30)
    zeros = call(z, t, asks="gradient", cotangent=np.zeros(30))
    np.testing.assert_array_equal(zeros.slopes, 0.0)


# ---- any shape and options ------------------------------------------------------------------------


@st.composite
def problems(draw):
    outer, inner = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    classes = draw(st.one_of(st.integers(1, 20), st.integers(45, 70)))
    layout = draw(st.sampled_from(["plain", "classes last", "gaps", "turned round", "backwards"]))
    options = {
        "temperature": draw(st.sampled_from([1.0, 0.3, 2.7, 40.0])),
        "smoothing": draw(st.sampled_from([0.0, 0.0, 0.1, 1.0])),
        "z_loss": draw(st.sampled_from([0.0, 0.0, 1e-4, 0.3])),
    }
    scale = draw(st.sampled_from([0.0, 0.1, 3.0, 60.0, 1e4]))
    soft, weighted = draw(st.booleans()), draw(st.booleans())
    masked = draw(st.sampled_from([0.0, 0.0, 0.3, 0.9]))
    return (outer, classes, inner), layout, options, scale, soft, weighted, masked, draw(st.integers(0, 99))  # fmt: skip


@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(problems())
def test_rows_of_any_shape_and_options_agree_with_the_definition(problem):
    shape, layout, options, scale, soft, weighted, masked, seed = problem
    generator = np.random.default_rng(seed)
    values = scale * generator.standard_normal(shape) + generator.uniform(-50.0, 50.0)
    hidden = generator.random(shape) < masked
    hidden[:, generator.integers(shape[1])] = False
    values[hidden] = -np.inf
    z = Placed(values, "float32", layout)
    exact_z = by_row(z.values())
    if soft:
        t = Placed(np.where(hidden, 0.0, generator.random(shape)), "float32", layout)
        target = by_row(t.values())
    else:
        target = np.argmax(np.where(exact_z > -np.inf, generator.random(exact_z.shape), -1.0), 1)
        t = Placed(target.reshape(shape[0], shape[2]), "int64", layout)
    if weighted:
        options = {**options, "class_weight": generator.uniform(0.0, 3.0, shape[1])}
    cotangent = generator.standard_normal(len(exact_z))
    got = call(z, t, gradient=layout, cotangent=cotangent, **options)
    truth = defined(exact_z, target, **options)
    assert got.sums.bad == -1
    assert_right(got, truth, "float32", cotangent)


# ---- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_every_block_is_computed_once(number, monkeypatch):
    monkeypatch.setattr(threads, "number_of_threads", lambda: number)
    for blocks in (0, 1, 2, 3, 10, 97):
        done, lock = [], threading.Lock()

        def compute(start, stop, done=done, lock=lock):
            with lock:
                done.extend(range(start, stop))

        threads.run(compute, blocks, 1 << 30)
        assert sorted(done) == list(range(blocks))


def test_small_work_is_done_by_the_calling_thread(monkeypatch):
    monkeypatch.setattr(threads, "number_of_threads", lambda: 8)
    seen = set()
    threads.run(lambda *_: seen.add(threading.get_ident()), 50, threads.SMALL - 1)
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("here", [True, False], ids=["in the calling thread", "in another"])
def test_an_exception_comes_out_after_all_threads_have_stopped(error, here, monkeypatch):
    monkeypatch.setattr(threads, "number_of_threads", lambda: 3)
    running, caller, met = [], threading.get_ident(), threading.Event()

    def compute(start, stop):
        mine = (threading.get_ident() == caller) == here
        running.append(start)
        try:
            if mine:
                met.set()
                raise error("stop")
            met.wait(5.0)
        finally:
            running.remove(start)

    with pytest.raises(error):
        threads.run(compute, 64, 1 << 30)
    assert running == []
    done = []
    threads.run(lambda start, stop: done.extend(range(start, stop)), 20, 1 << 30)
    assert sorted(done) == list(range(20))


def test_a_pool_that_grows_while_work_is_handed_to_it_loses_nothing(monkeypatch):
    # A call for more threads comes just before another call hands its work to the pool.
    monkeypatch.setattr(threads, "number_of_threads", lambda: 9)
    threads._forget()
    larger = threading.Thread(target=threads.run, args=(lambda *_: None, 9, 1 << 30))

    class Interrupted(ThreadPoolExecutor):
        def submit(self, *arguments, **options):
            if larger.ident is None:
                larger.start()
                larger.join(1.0)  # it may have to wait for this very call
            return super().submit(*arguments, **options)

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Interrupted)
    done = []
    try:
        threads.run(lambda start, stop: done.extend(range(start, stop)), 2, 1 << 30)
    finally:
        larger.join()
        threads._forget()
    assert sorted(done) == [0, 1]


def test_calls_of_different_sizes_from_eight_threads_compute_every_block(monkeypatch):
    monkeypatch.setattr(threads, "number_of_threads", lambda: 9)
    for _ in range(20):
        threads._forget()
        start = threading.Barrier(8)

        def ask(size, start=start):
            done = []
            start.wait()
            for _ in range(3):
                threads.run(lambda a, b: done.extend(range(a, b)), size, 1 << 30)
            return sorted(done) == sorted(3 * list(range(size)))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(2, 10)))


def test_eight_threads_call_at_once_and_each_gets_its_own_rows(monkeypatch):
    monkeypatch.setattr(threads, "number_of_threads", lambda: 3)
    shapes = [(900, 40, 1), (40, 1000, 1), (3, 9, 5000), (2500, 60, 1)]
    problems = [hard_rows(shape, seed) for seed, shape in enumerate(shapes * 2)]
    alone = [outcome(*problem) for problem in problems]
    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda problem: outcome(*problem), problems))
        for a, b in zip(alone, together, strict=True):
            assert a.bits() == b.bits()
            assert repr(a.sums) == repr(b.sums)


def test_the_number_of_threads_is_torchs_where_torch_is_loaded(monkeypatch):
    before = torch.get_num_threads()
    try:
        for number in (1, 3, 2):
            torch.set_num_threads(number)
            assert threads.number_of_threads() == number
    finally:
        torch.set_num_threads(before)
    monkeypatch.delitem(sys.modules, "torch")
    assert 1 <= threads.number_of_threads() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS and Windows
    assert threads.number_of_threads() >= 1


# ---- processes ------------------------------------------------------------------------------------

FORKS = """
import multiprocessing, os
import numpy as np
import torch
from xent.losses.kernels import SoftmaxRows, cpu_rows, threads

torch.set_num_threads(2)
rng = np.random.default_rng(0)
z = rng.standard_normal((3000, 100, 1), dtype=np.float32)
y = rng.integers(0, 100, (3000, 1))

def compute(_=None):
    gradient = np.empty_like(z)
    sums = cpu_rows.softmax(SoftmaxRows(z, y), gradient=gradient)
    return sums, gradient.tobytes()

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        same = compute() == first
        return torch.tensor([same, threads.number_of_threads() == 1, threads._pool is None])

def main():
    global first
    first = compute()
    assert threads._pool is not None, "the pool was not used"
    child = os.fork()
    if child == 0:
        right = threads._pool is None and compute() == first and threads._pool is not None
        os._exit(0 if right else 3)
    assert os.waitpid(child, 0)[1] == 0, "a forked child went wrong"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(result == first for result in pool.map(compute, range(6)))
    for batch in torch.utils.data.DataLoader(Rows(), num_workers=2, batch_size=2):
        assert batch.all(), batch
    assert compute() == first
    print("right")

main()
"""


def run_python(code, path=None, timeout=300, **environment):
    """Run code in a fresh process; return what it prints."""
    settings = {**os.environ, "PYTHONPATH": str(path or PACKAGE.parent), **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_forks_and_data_loaders_compute_after_the_parent_has():
    assert run_python(FORKS) == "right"


COMPILED = """
import numpy as np
from xent.losses.kernels import SoftmaxRows, cpu_rows, numba_classes
z = np.zeros((3, cpu_rows.FEW, 1), np.float32)
losses = np.empty(3)
cpu_rows.softmax(SoftmaxRows(z, np.zeros((3, 1), np.int64)), losses=losses)
assert np.allclose(losses, np.log(cpu_rows.FEW)), losses
stats = numba_classes.over_classes.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def files_under(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.nb[ic]")}


def test_what_is_compiled_once_is_read_by_the_next_process(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert run_python(COMPILED, **cache) == "0 1"
    files = files_under(tmp_path)
    assert files
    assert run_python(COMPILED, **cache) == "1 0"
    assert files_under(tmp_path) == files


def test_an_install_that_cannot_be_written_to_keeps_its_cache_with_the_user(tmp_path):
    install, home, nowhere = tmp_path / "install", tmp_path / "home", tmp_path / "file"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, install / "xent", ignore=ignored)
    # A file in its place keeps even a superuser from making the folder of the cache.
    (install / "xent/losses/kernels/__pycache__").write_text("")
    home.mkdir()
    nowhere.write_text("")
    users = {"HOME": str(home), "XDG_CACHE_HOME": str(home), "NUMBA_CACHE_DIR": ""}
    assert run_python(COMPILED, install, **users) == "0 1"
    assert files_under(home)
    assert run_python(COMPILED, install, **users) == "1 0"
    # Where nothing can be written, it compiles each time.
    users = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "NUMBA_CACHE_DIR": ""}
    assert run_python(COMPILED, install, **users).split()[0] == "0"


def test_sums_beyond_float64_are_infinite_or_nan_without_a_warning():
    assert cpu_rows._sum([1.0, 1e100, -1e100, 1.0]) == 2.0
    assert cpu_rows._sum([1e308, 1e308]) == np.inf
    assert np.isnan(cpu_rows._sum([np.inf, -np.inf]))
    assert np.isnan(cpu_rows._sum([np.nan, 1.0]))
