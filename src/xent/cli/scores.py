"""``xent score``: the log loss of a table of predictions."""

from __future__ import annotations

import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xent.cli.process import (
    Done,
    check_format,
    check_json,
    guarded,
    json_bytes,
    judge,
    terminal,
    write_json,
)
from xent.errors import OptionError
from xent.files import require_target, write_whole

if TYPE_CHECKING:
    from typer import Typer

    from xent.scoring import Score
    from xent.scoring.gates import Gate

__all__ = ["Places", "add_to", "parse_allow", "parse_zero"]


def add_to(app: Typer) -> None:
    """Add the command to the program."""
    import typer

    @app.command()
    def score(
        file: list[Path] = typer.Argument(
            help="CSV, Parquet, JSON lines (gzip too) or a DuckDB file with labels and "
            "probabilities; several files, a folder or a 'quoted*pattern' are parts of one table."
        ),
        table: str | None = typer.Option(
            None, metavar="NAME", help="The table of a DuckDB file that has more than one."
        ),
        query: str | None = typer.Option(
            None,
            metavar="SQL",
            help="What to score: SQL that sees a database's tables, or a file as 'predictions'.",
        ),
        label: str | None = typer.Option(None, metavar="COLUMN", help="The true label."),
        probabilities: str | None = typer.Option(
            None, metavar="PATTERN", help="The probabilities: 'p_*', or names with commas between."
        ),
        positive: str | None = typer.Option(
            None, metavar="VALUE", help="The label value that one column is the probability of."
        ),
        classes: str | None = typer.Option(
            None, metavar="A,B,C", help="The label values in the order of the probabilities."
        ),
        labels: Path | None = typer.Option(
            None, metavar="FILE", help="The labels, where they lie in a table of their own."
        ),
        key: str | None = typer.Option(
            None, metavar="COLUMN", help="With --labels: what pairs a label with its prediction."
        ),
        long: str | None = typer.Option(
            None,
            metavar="COLUMN",
            help="The class, where each prediction has a row for every class; --id tells which "
            "rows are one prediction.",
        ),
        multi_label: str | None = typer.Option(
            None,
            metavar="PATTERN",
            help="Several truths in a row, each a yes or no with a probability of its own: 'y_*'.",
        ),
        soft_labels: str | None = typer.Option(
            None,
            metavar="PATTERN",
            help="Probabilities that the truth is each class, in the place of a label: 'y_*'.",
        ),
        scale: str | None = typer.Option(
            None,
            metavar="SCALE",
            help="What the numbers are: probability, log (of probabilities) or logits; found by "
            "names such as logit_cat.",
        ),
        weights: str | None = typer.Option(
            None, metavar="COLUMN", help="Sampling weights; 'none' counts each row once."
        ),
        counts: str | None = typer.Option(
            None, metavar="COLUMN", help="How many equal rows each row stands for."
        ),
        id: str | None = typer.Option(  # noqa: A002 - the name of the flag
            None, metavar="COLUMN", help="What names a row in the report; 'none' for its number."
        ),
        by: list[str] = typer.Option(
            [], metavar="COLUMN", help="Score each value of COLUMN by itself; may be repeated."
        ),
        cluster: str | None = typer.Option(
            None,
            metavar="COLUMN",
            help="Which rows belong together (a patient, a day): the standard error is by these.",
        ),
        allow: list[str] = typer.Option(
            [],
            metavar="FAULT",
            help="Accept rows that are refused otherwise; may be repeated. unnormalised=1e-3: sums "
            "within that of 1, used as given. unseen: labels that have no probability, which count "
            "as called impossible. missing: rows without label or prediction, which are left out.",
        ),
        zero: str = typer.Option(
            "inf",
            metavar="inf|floor=P",
            help="What P(truth) = 0 costs: 'inf', or as much as the floor P under every P(truth).",
        ),
        class_wise: bool = typer.Option(
            False, "--class-wise", help="Look at the calibration of each of many classes."
        ),
        no_explain: bool = typer.Option(
            False,
            "--no-explain",
            help="Only the log loss, how sure it is and the labels, in half the time; not where "
            "the loss comes from. Every row is validated all the same.",
        ),
        worst: int | None = typer.Option(
            None, min=0, help="How many of the worst rows to show; 5 by default."
        ),
        show: list[str] = typer.Option(
            [], metavar="COLUMN", help="Show COLUMN of the worst rows too; may be repeated."
        ),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the score as JSON to FILE; '-' prints only that."
        ),
        fail_above: str | None = typer.Option(
            None,
            metavar="LIMIT",
            help="Exit with status 1 if the log loss is above LIMIT: 0.45 (nats), or 0.65bits.",
        ),
        fail_worse_than: Path | None = typer.Option(
            None,
            metavar="JSON",
            help="Exit with status 1 if it is surely worse than the score in JSON, of other rows.",
        ),
        tolerance: float = typer.Option(
            0.0, min=0.0, metavar="NATS", help="With --fail-worse-than: by more than so much."
        ),
        format: str = typer.Option(  # noqa: A002 - the name of the flag
            "text", metavar="text|md", help="What is printed: text, or Markdown for a comment."
        ),
        html: Path | None = typer.Option(
            None,
            metavar="FILE",
            help="Write a page with figures to FILE; looks at each class as --class-wise does.",
        ),
        summary: str | None = typer.Option(
            None, metavar="FILE", help="Write what `xent merge` adds up to the score of many parts."
        ),
    ) -> None:
        """Log loss of the predictions in FILE, by class, with its standard error."""
        options = {
            "table": table,
            "query": query,
            "label": label,
            "probabilities": probabilities,
            "positive": positive,
            "classes": None if classes is None else classes.split(","),
            "labels": labels,
            "key": key,
            "long": long,
            "multi_label": multi_label,
            "soft_labels": soft_labels,
            "scale": scale,
            "weights": weights,
            "counts": counts,
            "id": id,
            "by": by,
            "cluster": cluster,
            "class_wise": class_wise or html is not None,
            "explain": not no_explain,
            "floor": parse_zero(zero),
            **parse_allow(allow),
            "worst": worst,
            "show": show,
        }
        # The parser would otherwise answer an interruption or a closed pipe in its own way.
        places = Places(json, summary, html, format)
        limits = (fail_above, fail_worse_than, tolerance)
        raise Done(guarded(lambda: _score(file, places, limits, options)))


_ALLOWED = frozenset({"unseen", "missing", "unnormalised"})


def parse_allow(words: list[str], known: Set[str] = _ALLOWED) -> dict[str, Any]:
    """Return the options in ``unnormalised=1e-3``, ``unseen`` and ``missing``."""
    allowed: dict[str, Any] = {}
    for word in words:
        name, given, value = word.partition("=")
        if name in known - {"unnormalised"} and not given:
            allowed[f"allow_{name}"] = True
            continue
        try:
            allowed["allow_unnormalised"] = float(value)
        except ValueError:
            name = ""
        if name != "unnormalised":
            others = ", ".join(sorted(known - {"unnormalised"}))
            raise OptionError(
                f"--allow must {f'be {others}, or ' if others else ''}look like "
                f"unnormalised=1e-3: got {word!r}. "
                "Hint: the number is how far from 1 the sum of a row may lie."
            )
    return allowed


def parse_zero(word: str) -> float | None:
    """Return the floor in ``floor=1e-15``; None for ``inf``."""
    name, _, value = word.partition("=")
    try:
        if name == "floor":
            return float(value)
    except ValueError:
        name = ""
    if word != "inf":
        raise OptionError(
            f"--zero must be inf, or look like floor=1e-15: got {word!r}. "
            "Hint: with a floor no P(truth) counts as less than that."
        )
    return None


def _score(
    files: list[Path],
    places: Places,
    limits: tuple[str | None, Path | None, float],
    options: dict[str, Any],
) -> int:
    from xent.scoring import score
    from xent.scoring.gates import gate_above, gate_worse_than, parse_limit, read_baseline

    above, baseline, tolerance = limits
    places.check(*files, *([] if options["labels"] is None else [options["labels"]]))
    if not options["explain"]:
        places.require_plain()
    # What is wrong with a limit is said before the work is done.
    limit = None if above is None else parse_limit(above)
    before = None if baseline is None else read_baseline(baseline)
    result = score(files[0] if len(files) == 1 else files, **options)
    gates = [] if limit is None else [gate_above(result, limit)]
    gates += [] if before is None else [gate_worse_than(result, before, tolerance)]
    places.show(result, gates)
    return judge(gates)


class Places(NamedTuple):
    """Where a score goes, besides the terminal: files for JSON, a summary and a page, or None.

    On the terminal it is text or Markdown.
    """

    json: str | None
    summary: str | None = None
    html: Path | None = None
    format: str = "text"

    def check(self, *sources: Path) -> None:
        """Refuse what cannot be written, before the work is done."""
        check_format(self.format)
        check_json(self.json, *sources)
        if self.summary is not None:
            hint = "name a file; `xent merge` reads it."
            require_target(Path(self.summary), "--summary", *sources, hint=hint)
        if self.html is not None:
            require_target(self.html, "--html", *sources, hint="name a file for a browser.")

    def require_plain(self) -> None:
        """Refuse files that are made of the explanation."""
        given = {"--html": self.html, "--summary": self.summary}
        flags = [flag for flag, place in given.items() if place is not None]
        if flags:
            raise OptionError(
                f"--no-explain must stand without {' and '.join(given)}, which are made of the "
                f"explanation: got {' and '.join(flags)} too. Hint: --json and --format md tell "
                "what there is of a plain score."
            )

    def show(self, result: Score, gates: Sequence[Gate] = ()) -> None:
        """Print a score, and write it where it was asked for."""
        if self.json != "-":
            from xent.report import render_markdown, render_text

            markdown = self.format == "md"
            text = render_markdown(result) if markdown else render_text(result, **terminal())
            sys.stdout.write(text)
        if self.json is not None:
            write_json(self.json, {**result.to_dict(), "gates": [vars(gate) for gate in gates]})
        if self.summary is not None:
            from xent.scoring import summary_document

            document = json_bytes(summary_document(result), indent=None)
            write_whole(Path(self.summary), document, "--summary")
        if self.html is not None:
            from xent.report import render_page

            page = render_page(result).encode("utf-8", errors="backslashreplace")
            write_whole(self.html, page, "--html")
