"""``xent kernels``: which kernel would run, and why no other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from xent.cli import main
from xent.errors import OptionError
from xent.losses import dispatch
from xent.losses.cases import SHAPES
from xent.losses.kernel_table import DTYPES, kernel_table, render

NAMES = [kernel.name for kernel in dispatch.KERNELS]


def answers(capsys, *words):
    assert main(["kernels", *words, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def in_a_process_without(packages, words):
    """Run the command where packages cannot be imported or found."""
    code = f"import sys\nfor p in {packages!r}: sys.modules[p] = None\n"
    code += f"from xent.cli import main\nsys.exit(main(['kernels', *{words!r}]))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_each_kernel_is_printed_with_what_it_says(capsys):
    assert main(["kernels", "4096x32000"]) == 0
    shape, *lines = capsys.readouterr().out.splitlines()
    assert shape == "4096 × 32000, float32, class indices, cpu"
    assert [line.split()[0] for line in lines] == NAMES
    assert lines[0].split()[1:] == ["runs"]
    assert "GPUs" in lines[1]
    assert "kernel='definition'" in lines[2]


def test_what_runs_is_what_dispatch_chooses(capsys):
    (answer,) = answers(capsys, "8x21x512x512", "--dtype", "float64", "--softcap", "30")
    assert answer["runs"] == "definition"
    assert [kernel["name"] for kernel in answer["kernels"]] == NAMES
    assert "softcap of float64" in answer["kernels"][0]["refusal"]
    assert answer["kernels"][-1]["refusal"] is None
    assert "softcap 30" in answer["asked"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("soft", [[], ["--soft"]])
def test_the_cpu_kernel_runs_for_every_dtype_and_target(capsys, dtype, soft):
    (answer,) = answers(capsys, "64x10", "--dtype", dtype, *soft)
    assert answer["runs"] == "numba_rows"
    assert dtype in answer["asked"]
    assert ("probabilities" if soft else "class indices") in answer["asked"]


def test_without_shapes_those_that_speed_is_measured_on_are_asked(capsys):
    given = answers(capsys)
    assert [a["asked"] for a in given] == [f"{shape}, cpu" for shape in SHAPES]
    assert {a["runs"] for a in given} == {"numba_rows"}


def test_no_shape_is_too_large_to_ask_about(capsys):
    (answer,) = answers(capsys, "1000000000x1000000")
    assert answer["runs"] == "numba_rows"


def test_one_dimension_is_one_row_and_no_row_is_a_shape(capsys):
    assert [a["runs"] for a in answers(capsys, "10", "0x10")] == ["numba_rows"] * 2


def test_another_device_has_other_reasons(capsys):
    (answer,) = answers(capsys, "64x10", "--device", "meta")
    assert answer["runs"] == "definition"
    assert "on meta" in answer["kernels"][0]["refusal"]
    (answer,) = answers(capsys, "64x10", "--device", "nowhere")
    assert answer["runs"] is None
    assert {k["refusal"] for k in answer["kernels"]} == {"torch finds no device 'nowhere' here"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["4096xx2"], "4096xx2"),
        (["many"], "many"),
        (["-3x4"], "-3x4"),
        (["4x4", "--dtype", "float8"], "float8"),
        (["4x4", "--softcap", "0"], "positive"),
        (["4x4", "--softcap", "nan"], "positive"),
        (["4x4", "--json", "no/such/folder.json"], "folder that exists"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(capsys, words, said):
    assert main(["kernels", "--", *words] if words[0].startswith("-") else ["kernels", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xent: ")
    assert said in err
    assert "Hint: " in err


def test_json_in_a_file_stands_beside_the_text(capsys, tmp_path):
    target = tmp_path / "kernels.json"
    assert main(["kernels", "4x4", "--json", str(target)]) == 0
    (answer,) = json.loads(target.read_text(encoding="utf-8"))
    assert answer["asked"] in capsys.readouterr().out


def test_without_torch_numpy_is_asked_about():
    said = in_a_process_without(["torch"], ["64x10", "--dtype", "float16"])
    assert "numba_rows   runs" in said
    assert "it takes torch tensors, and the logits are of type numpy.ndarray" in said
    for words in (["64x10", "--dtype", "bfloat16"], ["64x10", "--device", "cuda"]):
        assert in_a_process_without(["torch"], words).count("torch") == len(NAMES)


def test_without_numba_the_reason_says_what_to_install():
    said = in_a_process_without(["numba"], ["64x10"])
    assert "numba_rows   no: numba is not installed (pip install 'xent[cpu]')" in said
    assert "definition   runs" in said


def test_without_either_the_definition_runs():
    said = in_a_process_without(["torch", "numba"], ["64x10"])
    assert "definition   runs" in said
    assert said.count("no: ") == 2


def test_the_table_can_be_asked_from_python():
    (answer,) = kernel_table(["64×10"], soft=True)
    assert answer.to_dict()["runs"] == "numba_rows"
    assert answer.asked in render([answer])
    with pytest.raises(OptionError, match="got 'x'"):
        kernel_table(["x"])
