"""``xent code``: files there and back, on disk and in pipes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading

import pytest

from xent.cli import main
from xent.coding import ContextModel, account, decompress
from xent.scoring import score

ENGLISH = b"the quick brown fox jumps over the lazy dog and then the dog looks at the fox. " * 60
GERMAN = b"der schnelle braune Fuchs springt auf den faulen Hund, und der Hund sieht ihn an. " * 60


def run(*words) -> int:
    return main(["code", *map(str, words)])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "en.txt").write_bytes(ENGLISH)
    (tmp_path / "de.txt").write_bytes(GERMAN)
    return tmp_path


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_file_goes_there_and_back(folder, order, capsys):
    packed, back = folder / "en.xent", folder / "back.txt"
    assert run("compress", folder / "en.txt", "-o", packed, "--order", order) == 0
    assert "decoded again, and the same" in capsys.readouterr().out
    assert run("decompress", packed, "-o", back) == 0
    assert back.read_bytes() == ENGLISH
    assert packed.stat().st_size < len(ENGLISH) * 0.6
    assert sorted(p.name for p in folder.iterdir()) == ["back.txt", "de.txt", "en.txt", "en.xent"]


def test_a_model_is_trained_shared_and_asked_for(folder, capsys):
    model, packed, back = folder / "de.model", folder / "en.xent", folder / "back.txt"
    assert run("train", folder / "de.txt", "-o", model) == 0
    assert ContextModel.load(model).fingerprint.hex() in capsys.readouterr().out
    assert run("compress", folder / "en.txt", "--model", model, "-o", packed) == 0
    assert run("decompress", packed, "-o", back) == 2
    assert "Hint: --model FROM.model" in capsys.readouterr().err
    assert not back.exists()
    assert run("decompress", packed, "--model", model, "-o", back) == 0
    assert back.read_bytes() == ENGLISH


def test_accounts_in_text_and_json_are_those_of_the_library(folder, capsys):
    assert run("account", folder / "en.txt", "--json", "-") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == account(ENGLISH).as_dict()
    assert sum(told["parts"].values()) == 8 * told["total_bytes"]
    assert run("compress", folder / "en.txt", "-o", folder / "en.xent") == 0
    assert told["total_bytes"] == (folder / "en.xent").stat().st_size
    capsys.readouterr()
    assert run("account", folder / "en.xent", "--json", folder / "told.json") == 0
    assert json.loads((folder / "told.json").read_text()) == told
    assert f"{told['total_bytes']:,}" in capsys.readouterr().out


def test_a_matrix_in_text_json_and_svg(folder, capsys):
    (folder / "sub").mkdir()
    (folder / "sub" / "more.txt").write_bytes(ENGLISH[:1000])
    files = [folder / "en.txt", folder / "de.txt", folder / "sub"]
    assert run("matrix", *files, "--json", "-", "--svg", folder / "m.svg") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["names"] == ["en.txt", "de.txt", "sub"]
    rows = told["cross_entropy_bits_per_byte"]
    assert rows[2][0] < rows[2][1]
    assert (folder / "m.svg").read_text().startswith("<")
    assert run("matrix", *files, "--order", "0") == 0
    assert "order 0" in capsys.readouterr().out
    assert run("matrix", files[0], files[0]) == 2
    assert "named once" in capsys.readouterr().err


def test_labels_are_a_table_that_score_reads(folder, capsys):
    models = folder / "models"
    models.mkdir()
    for name, data in (("en", ENGLISH), ("de", GERMAN)):
        (folder / name).mkdir()
        for i in range(4):
            (folder / name / f"{i}.txt").write_bytes(data[i * 700 : (i + 1) * 700])
        assert run("train", folder / f"{name}.txt", "-o", models / f"{name}.model") == 0
    capsys.readouterr()
    table = folder / "table.csv"
    words = ["classify", folder / "en", folder / "de", "--models", models]
    assert run(*words, "--labels", "folder", "-o", table) == 0
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["label"] for row in rows] == ["en"] * 4 + ["de"] * 4
    assert [row["predicted"] for row in rows] == [row["label"] for row in rows]
    found = score(table)
    assert found.accuracy == 1.0
    assert found.log_loss < 0.3
    capsys.readouterr()
    assert run(*words) == 0
    assert capsys.readouterr().out.startswith("id,predicted,p_de,p_en\n")
    assert run("classify", folder / "en.txt", "--models", models, "--labels", "folder") == 2
    assert "named as a model" in capsys.readouterr().err
    assert run("classify", folder / "en.txt", "--models", folder / "en") == 2
    assert "two NAME.model files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compress", "absent", "-o", "x"], "cannot: No such file"),
        (["compress", "en.txt", "-o", "nowhere/x"], "a folder that exists"),
        (["compress", "en.txt", "-o", "en.txt"], "another file"),
        (
            ["compress", "en.txt", "-o", "x", "--order", "3"],
            "order must be a whole number from 0 to 2",
        ),
        (["compress", "en.txt", "-o", "x", "--threads", "0"], "threads must be"),
        (["decompress", "en.txt", "-o", "x"], "must begin with"),
        (["compress", "en.txt", "-o", "x", "--model", "en.txt"], "must begin as a model"),
        (["train", "empty", "-o", "x"], "all are empty"),
        (["train", "hollow", "-o", "x"], "holds none"),
        (["matrix", "en.txt"], "two files or more"),
        (["matrix", "en.txt", "empty"], "'empty' is empty"),
        (["compress", "hollow", "-o", "x"], "cannot: Is a directory"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_left(folder, words, said, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "empty").touch()
    (folder / "hollow").mkdir()
    before = sorted(folder.iterdir())
    assert run(*words) == 2
    assert said in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
    assert (folder / "en.txt").read_bytes() == ENGLISH


def test_pipes_there_and_back():
    program = [sys.executable, "-m", "xent", "code"]
    code = subprocess.run(
        [*program, "compress", "-", "-o", "-"], input=ENGLISH, capture_output=True, check=True
    )
    assert code.stderr == b""
    back = subprocess.run(
        [*program, "decompress", "-", "-o", "-"], input=code.stdout, capture_output=True, check=True
    )
    assert back.stdout == ENGLISH
    cut = subprocess.run(
        [*program, "decompress", "-", "-o", "-"], input=code.stdout[:-5], capture_output=True,
        check=False,
    )  # fmt: skip
    assert (cut.returncode, cut.stdout) == (2, b"")
    assert b"the file ends" in cut.stderr


def test_models_are_not_trained_on_themselves_and_orders_are_not_given_twice(folder, capsys):
    corpus = folder / "corpus"
    corpus.mkdir()
    (corpus / "en.txt").write_bytes(ENGLISH)
    (corpus / "en.pyc").write_bytes(bytes(5000))
    model = corpus / "en.model"
    words = ["train", corpus, "--only", "*.txt", "-o", model]
    assert run(*words) == 0
    first = model.read_bytes()
    assert run("train", corpus, "-o", folder / "all.model") == 0
    assert (folder / "all.model").read_bytes() != first
    (corpus / "en.pyc").unlink()
    assert run("train", corpus, "-o", model) == 0
    assert model.read_bytes() == first
    assert run("train", corpus, "-o", "-") == 2
    assert run("matrix", corpus, folder / "de.txt", "--svg", "-") == 2
    assert "must name a file: got '-'" in capsys.readouterr().err
    assert run("account", folder / "en.txt", "--model", model, "--order", 2) == 2
    assert "--order and --model" in capsys.readouterr().err


def test_files_that_say_nothing_are_left_out_of_a_table(folder, capsys):
    for name, data in (("en", ENGLISH), ("de", GERMAN)):
        ContextModel.of(data).save(folder / f"{name}.model")
    texts = folder / "texts"
    texts.mkdir()
    (texts / "a").write_bytes(ENGLISH[:500])
    (texts / "__init__.py").touch()
    assert run("classify", texts, "--models", folder) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "left out, because empty: 1" in told.err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no device that is always full")
def test_what_the_system_refuses_is_said_in_a_line(folder):
    program = [sys.executable, "-m", "xent", "code"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*program, "compress", folder / "en.txt", "-o", "-"], stdout=full,
            stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *program, "compress", "-", "-o", folder / "x"],
        stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert closed.returncode == 2
    assert b"standard input must be open" in closed.stderr
    assert not (folder / "x").exists()


def test_devices_and_pipes_are_written_to(folder):
    assert run("compress", folder / "en.txt", "-o", os.devnull) == 0
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    found = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    assert run("compress", folder / "en.txt", "-o", pipe) == 0
    reader.join(30)
    assert decompress(found[0]) == ENGLISH
    assert pipe.is_fifo()
