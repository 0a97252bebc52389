"""The accuracy page says what was measured, and what is measured lies within what is declared."""

from __future__ import annotations

import time

import numpy as np
import oracle
import pytest
import torch
from libraries import EVERY, NAMES

import xent.torch
from benchmarks import __main__ as command
from benchmarks import accuracy, apart, bandwidth, losses, page, results, rows, rows_page
from xent.errors import OptionError
from xent.losses import dispatch
from xent.losses.cases import SHAPES

STORED = results.read(page.STORED)
# What the other tests hold against the oracle on every library is not measured again here.
ONLY_HERE = (accuracy.softmax_product, accuracy.sigmoid, accuracy.squared_error_of_logits)


def test_the_page_is_what_the_stored_measurements_make():
    assert page.PAGE.read_text(encoding="utf-8") == page.render(STORED)


def test_the_table_of_the_readme_is_what_the_stored_measurements_make():
    text = page.README.read_text(encoding="utf-8")
    assert text == page.render_readme(text, STORED)
    doctored = [{**m, "worst": 3.21} if m["kind"] == "comparison" else m for m in STORED]
    assert text != page.render_readme(text, doctored)


def test_every_stored_worst_error_is_within_its_bound():
    assert page.beyond_bound(STORED) == []


@pytest.mark.parametrize("worst", [4.001, "inf", "nan"])
def test_a_doctored_measurement_is_found_beyond_its_bound(worst):
    doctored = next(m for m in STORED if m["kind"] == "error" and m["unit"] == "ulp")
    (words,) = page.beyond_bound(
        [*(m for m in STORED if m["kind"] != "error"), {**doctored, "worst": worst}]
    )
    assert words.startswith(
        f"{doctored['function']} ({doctored['quantity']}) on {doctored['library']}"
    )


def test_a_doctored_measurement_changes_the_page():
    number = next(i for i, m in enumerate(STORED) if m["kind"] == "error")
    doctored = [{**m, "worst": 3.21} if i == number else m for i, m in enumerate(STORED)]
    assert page.render(doctored) != page.render(STORED)


def test_every_function_is_measured_on_every_library_and_dtype():
    found = {(m["library"], m["dtype"], m["function"]) for m in STORED if m["kind"] == "error"}
    functions = {function for *_, function in found}
    assert {(library.name, dtype, f) for library, dtype in EVERY for f in functions} == found
    assert {"sigmoid_cross_entropy", "nll", "entropy", "mutual_information"} <= functions


@pytest.mark.parametrize("measured", ONLY_HERE, ids=[m.__name__ for m in ONLY_HERE])
@pytest.mark.parametrize(("library", "dtype"), EVERY, ids=NAMES)
def test_the_measured_functions_are_within_their_bounds(library, dtype, measured):
    for m in accuracy.measure(measured, library, dtype):
        assert m.numbers
        assert m.worst <= m.bound, m


def test_the_losses_are_timed_beside_each_other_and_their_errors_shown():
    timings = list(losses.time_losses(((32, 5),)))
    assert timings[0].system == "xent on NumPy"
    assert timings[0].ratio == 1.0
    assert all(t.fastest <= t.seconds <= t.slowest for t in timings)
    assert all(t.system in losses.table(timings) for t in timings)


def test_a_result_file_is_strict_json_with_what_it_depends_on(tmp_path):
    results.write(tmp_path / "r.jsonl", [{"worst": float("inf")}])
    (line,) = results.read(tmp_path / "r.jsonl")
    assert line["worst"] == "inf"
    assert {"machine", "python", "versions", "commit", "date"} <= set(line)
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


# ---- rows ----------------------------------------------------------------------------------------

KINDS = ["imagenet", "segmentation", "tiny-1x2", "class-weights", "soft-4096", "bf16-imagenet"]


@pytest.fixture(scope="module")
def timings():
    """Return what is timed of each kind of shape, reduced."""
    return list(rows.time_rows(rows.shapes_named(KINDS, quick=True), rounds=2))


def test_each_shape_is_timed_in_both_directions_with_its_errors(timings):
    assert [(t.name, t.does) for t in timings] == [
        (name, does) for name in KINDS for does in (rows.FORWARD, rows.BOTH)
    ]
    for t in timings:
        assert (t.kernel, t.rounds) == ("numba_rows", 2)
        assert t.ratio == pytest.approx(t.torch_seconds / t.xent_seconds)
        assert t.xent_errors.loss_ulps <= 4.0
        assert t.xent_errors.gradient_of_bound <= 1.0
        assert t.torch_errors.gradient_of_bound >= 0.0
        assert (t.read is None) == (t.name == "tiny-1x2")
        assert t.others is None or t.others >= 0.0


def test_the_table_shows_each_shape_and_the_lines_are_json(timings, tmp_path):
    shown = rows_page.table(timings, [apart.Peak("imagenet", 10**6, 10**6, 3 * 10**6, 0, 0)])
    assert all(f"{name}: " in shown for name in KINDS)
    assert "1.0 MB = 1.000 gradients (torch 3.0 MB = 3.000 gradients)" in shown
    results.write(tmp_path / "r.jsonl", [t.as_dict() for t in timings])
    line = results.read(tmp_path / "r.jsonl")[0]
    assert {"xent_loss_ulps", "torch_gradient_of_bound", "kind", "numba"} <= {
        *line,
        *line["versions"],
    }


def test_a_large_gradient_is_timed_with_new_memory_too(monkeypatch):
    monkeypatch.setattr(rows.pages, "LARGE", 1)
    (shape,) = rows.shapes_named(["imagenet"], quick=True)
    assert [t.does for t in rows.time_rows([shape], 1)] == [rows.FORWARD, rows.BOTH, rows.NEW]


def test_inputs_are_the_same_each_time_and_every_fourth_row_is_confident():
    for shape in rows.shapes_named(["imagenet", "segmentation"], quick=True):
        first, again = rows.inputs(shape), rows.inputs(shape)
        assert torch.equal(first.logits, again.logits)
        assert torch.equal(first.targets, again.targets)
        chosen = first.logits.gather(1, first.targets.unsqueeze(1)).reshape(-1)
        assert chosen[::4].min() > 10 > chosen[1::4].max() - 10


@pytest.mark.parametrize("soft", [False, True])
def test_the_truth_of_a_row_is_the_oracle_s(soft):
    g = np.random.default_rng(3)
    z = 3.0 * g.standard_normal(40)
    z[7] += 30.0
    for target in (7, 8):
        t = g.dirichlet(np.ones(40)) if soft else np.eye(40)[target]
        loss, gradient, p = rows.truth(z, t)
        exact_loss, exact_gradient, exact_p, _ = oracle.softmax_row(z, t)
        assert loss == pytest.approx(float(exact_loss), rel=1e-13)
        assert p == pytest.approx(np.array(exact_p, dtype=float), rel=1e-13)
        assert gradient == pytest.approx(
            np.array(exact_gradient, dtype=float), rel=1e-12, abs=1e-16
        )


def test_units_in_the_last_place_are_those_of_the_dtype():
    numbers = np.array([1.0, 1.5, 0.1, 3e38, 1e-40, 0.0])
    assert np.array_equal(rows._unit(numbers, "float32"), np.spacing(numbers.astype(np.float32)))
    for number in (1.0, 0.1, -7.3, 1e-39):
        b = torch.tensor(abs(number), dtype=torch.bfloat16)
        above = (b.view(torch.int16) + 1).view(torch.bfloat16)
        assert rows._unit(number, "bfloat16") == above.double() - b.double()


@pytest.mark.parametrize("by", [1e-5, float("nan")])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_wrong_kernel_is_not_timed(monkeypatch, by, what):
    right = xent.torch.cross_entropy

    def wrong(z, *arguments, **options):
        loss = right(z, *arguments, **options)
        return loss * (1.0 + by) if what == "loss" else loss * 1.0 + by * (z - z.detach()).sum()

    monkeypatch.setitem(rows.SYSTEMS, "xent", wrong)
    with pytest.raises(RuntimeError, match="xent is wrong"):
        list(rows.time_rows(rows.shapes_named(["imagenet"], quick=True), rounds=1))


def test_a_fallback_is_not_timed(monkeypatch):
    monkeypatch.setattr(dispatch, "NUMBA", False)
    for name in ("imagenet", "tiny-1x2"):
        with pytest.raises(OptionError, match="numba is not installed"):
            list(rows.time_rows(rows.shapes_named([name], quick=True), rounds=1))


def test_without_passing_tests_no_speed_is_printed(monkeypatch, tmp_path, capsys):
    failing = tmp_path / "test_red.py"
    failing.write_text("def test_red():\n    raise AssertionError('red')\n")
    is_proved = rows.is_proved
    monkeypatch.setattr(rows, "is_proved", lambda: is_proved([str(failing)]))
    monkeypatch.setattr(rows, "time_rows", lambda *_: pytest.fail("timed"))
    assert command.main(["rows", "--shape", "tiny-1x2"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "AssertionError" in err
    assert "do not pass" in err
    failing.write_text("def test_green():\n    pass\n")
    assert is_proved([str(failing)])
    assert not is_proved([str(tmp_path / "test_absent.py")])


def test_a_quick_run_prints_a_table_and_no_verdict(capsys):
    words = ["rows", "--quick", "--shape", "imagenet", "tiny-1x2", "--rounds", "1"]
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    assert "imagenet: 16 × 1000" in shown
    assert "too small" in shown
    assert "be reached" not in shown
    assert command.main([*words, "--json", "no.jsonl"]) == 2
    assert command.main(["rows", "--quick", "--shape", "imagenette"]) == 2
    assert "llm-32000" in capsys.readouterr().err


def timing(name, does, ratio, **options):
    errors = rows.Errors(0.5, 0.1)
    given = {
        "others": 0.0,
        "gigabytes": 6.0,
        "read": 10.0,
        "copy": 20.0,
        "fresh_copy": 8.0,
        **options,
    }
    return rows.Timing(
        name=name, size="", does=does, kernel="numba_rows", threads=2, rounds=5, xent_seconds=1.0,
        torch_seconds=ratio, ratio=ratio, ratio_by_round=ratio, xent_spread=(1.0, 1.0),
        xent_errors=errors, torch_errors=errors, **given,
    )  # fmt: skip


def all_timings(ratio, **options):
    return [
        timing(s.name, does, ratio, **options)
        for s in SHAPES
        for does in (rows.FORWARD, rows.BOTH, rows.NEW)
    ]


def verdicts(reached):
    return {t.name.strip(): t.verdict for t in reached}


def test_targets_hold_or_miss_by_their_figures():
    peaks = [apart.Peak("a", 100, 104, 300, 0, 0), apart.Peak("b", 100, 106, 300, 0, 0)]
    first = [apart.FirstCall("a", 4.0, 0.1, 0.5), apart.FirstCall("b", 6.0, 0.4, 0.5)]
    reached = verdicts(rows_page.targets(all_timings(12.5), peaks[:1], first[:1]))
    assert reached.pop("llm-32000, forward + backward, of a copy") == "misses"
    assert reached.pop("imagenet, forward + backward, of a copy") == "misses"
    assert set(reached.values()) == {"holds"}
    reached = verdicts(rows_page.targets(all_timings(3.9), peaks, first))
    assert {n for n, v in reached.items() if v == "holds"} == {
        "forward + backward, the worse of the tiny",
        *(f"{n}, forward, of a read" for n in ("llm-32000", "imagenet")),
        *(f"{n}, … into new memory, of a fresh copy" for n in ("llm-32000", "imagenet")),
        "first call, compiled before, the worst kind",
    }
    assert set(reached.values()) == {"holds", "misses"}


def test_the_geometric_mean_is_of_the_plain_large_shapes_alone():
    plain = ["llm-32000", "llm-128256", "llm-50257", "imagenet", "segmentation", "small-classes"]
    ratios = dict(zip(plain, [2.0, 4.0, 8.0, 16.0, 32.0, 64.0], strict=True))
    given = [timing(s.name, rows.BOTH, ratios.get(s.name, 1e6)) for s in SHAPES]
    first = rows_page.targets(given, [], [])[0]
    assert first.figure == pytest.approx(2.0**3.5)
    assert first.verdict == "misses"


def test_a_figure_without_all_its_shapes_is_not_given():
    reached = verdicts(rows_page.targets(all_timings(20.0)[3:], [], []))
    assert reached["forward + backward, geometric mean of 6 hard"] == "not measured"
    assert reached["forward + backward, the worse of bfloat16"] == "holds"
    assert reached["peak extra memory, the worst of 0"] == "not measured"


def test_a_busy_machine_makes_a_target_doubtful_and_never_held():
    reached = rows_page.targets(all_timings(20.0, others=1.0), [], [])
    assert {t.verdict for t in reached} == {"doubtful", "misses", "not measured"}
    assert "not quiet" in rows_page.table(all_timings(20.0, others=1.0), [])
    assert "not quiet" not in rows_page.table(all_timings(20.0), [])


def test_what_other_processes_use_is_counted():
    since = rows._spent()
    if since is None:
        pytest.skip("the system does not say what its processors do")
    assert rows._others((0.0, 1.0), (2.0, 4.0)) == 1.5
    assert rows._others(None, None) is None
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end:  # this process is none of the others
        pass
    own = rows._others(since, rows._spent())
    assert own is not None
    assert own < 2 * (torch.get_num_threads() + 16)


def test_memory_is_read_and_copied_whole():
    x = torch.randn(1001, 1003)
    moved = bandwidth.moves(x)
    assert {name.rpartition(", ")[0] for name in moved} == {
        bandwidth.READ, bandwidth.COPY, bandwidth.FRESH_COPY,
    }  # fmt: skip
    for move in moved.values():
        move()
    words = np.arange(5, dtype=np.uint64)
    assert bandwidth._sum(words) == 10
    assert bandwidth.best({"copy, a": 2.0, "copy, b": 1.0, "read, a": 0.5}, "copy") == 1.0
    assert bandwidth.best({}, "copy") is None


@pytest.mark.skipif(not apart.can_measure_peaks(), reason="no high-water mark to set back")
def test_peak_memory_is_seen_whoever_allocates_it():
    import mmap

    size = 64 << 20

    def mapped():
        memory = mmap.mmap(-1, size)
        memory.write(b"x" * size)
        memory.close()

    for allocate in (mapped, lambda: np.ones(size, np.uint8), lambda: torch.ones(size // 4)):
        peak, kept = apart.peak_of(allocate)
        assert size * 0.98 <= peak <= size * 2.02  # the mapped one is written from another
        assert abs(kept) < size // 8
    keeping = []
    peak, kept = apart.peak_of(lambda: keeping.append(np.ones(size, np.uint8)))
    assert kept >= size * 0.98


@pytest.mark.skipif(not apart.can_measure_peaks(), reason="no high-water mark to set back")
def test_the_peak_of_a_shape_holds_its_gradient():
    (peak,) = apart.peaks(["soft-4096", "tiny-1x2"])
    assert peak.name == "soft-4096"
    assert peak.gradient_bytes == 4 * 4096 * 1000
    assert peak.xent_bytes / peak.gradient_bytes >= 0.95
    assert peak.torch_bytes / peak.gradient_bytes >= 0.95


def test_without_a_command_the_commands_are_named(capsys):
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("accuracy", "losses", "rows"))
