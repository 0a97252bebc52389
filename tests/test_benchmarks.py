"""The accuracy page says what was measured, and what is measured lies within what is declared."""

from __future__ import annotations

import pytest
from libraries import EVERY, NAMES

from benchmarks import __main__ as command
from benchmarks import accuracy, losses, page, results

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


def test_without_a_command_the_commands_are_named(capsys):
    assert command.main([]) == 0
    shown = capsys.readouterr().out
    assert "accuracy" in shown
    assert "losses" in shown
