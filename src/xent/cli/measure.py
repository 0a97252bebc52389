"""``xent measure``: entropies, divergences and information of numbers and columns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xent.cli.process import OK, check_json, guarded, write_json
from xent.errors import OptionError

if TYPE_CHECKING:
    from typer import Typer

    from xent.scoring.measures import Measure

__all__ = ["add_to"]

_NUMBERS = "Hint: numbers stand with commas or spaces between, such as 0.7,0.2,0.1; "


def add_to(app: Typer) -> None:
    """Add the commands to the program."""
    import typer

    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help="Measure distributions: numbers, columns of probabilities, or columns of values.",
    )
    app.add_typer(group, name="measure")

    file = typer.Argument(None, metavar="FILE", help="CSV (gzip too) or Parquet.")
    unit = typer.Option("nats", help="nats, bits or bans.")
    normalize = typer.Option(False, "--normalize", help="Divide probabilities by their sum.")
    estimator = typer.Option(
        None,
        help="Of values: chao_wang_jost, jackknife, chao_shen, miller_madow or plug_in. "
        "[chao_wang_jost]",
    )
    smoothing = typer.Option(
        None, metavar="A", help="Of values: added to each count of the second sample. [0]"
    )
    missing = typer.Option(None, help="Of values: refuse or drop rows without one. [refuse]")
    json = typer.Option(
        None, metavar="FILE", help="Write the measure to FILE as JSON; '-' prints only that."
    )
    values = typer.Argument(None, metavar="P|FILE", help="Probabilities, or a CSV or Parquet.")
    column = typer.Option(None, metavar="COLUMN", help="The column of FILE to count the values of.")
    of_p = typer.Option(None, "--p", metavar="COLUMN", help="The column of FILE that holds P.")
    p = typer.Option([], "--p", metavar="P,P,…", help="P: numbers, or with FILE a column of them.")
    q = typer.Option([], "--q", metavar="Q,Q,…", help="Q: numbers, or with FILE a column of them.")
    p_samples = typer.Option(None, metavar="COLUMN", help="Values of FILE: a sample of P.")
    q_samples = typer.Option(None, metavar="COLUMN", help="Values of FILE: a sample of Q.")

    # A negative number is no flag: it gets the answer that it is no probability.
    loose = {"ignore_unknown_options": True}

    @group.command(context_settings=loose)
    def entropy(
        values: list[str] | None = values,
        column: str | None = column,
        p: str | None = of_p,
        unit: str = unit,
        normalize: bool = normalize,
        estimator: str | None = estimator,
        missing: str | None = missing,
        json: str | None = json,
    ) -> None:
        """Entropy of the distribution P..., or of a column of FILE."""
        counted = {"estimator": estimator, "missing": missing}
        raise typer.Exit(
            guarded(lambda: _one("entropy", values, column, p, json, unit, normalize, counted))
        )

    @group.command(context_settings=loose)
    def perplexity(
        values: list[str] | None = values,
        column: str | None = column,
        p: str | None = of_p,
        normalize: bool = normalize,
        estimator: str | None = estimator,
        missing: str | None = missing,
        json: str | None = json,
    ) -> None:
        """Perplexity: as many equally likely symbols are as hard to guess."""
        counted = {"estimator": estimator, "missing": missing}
        raise typer.Exit(
            guarded(lambda: _one("perplexity", values, column, p, json, "nats", normalize, counted))
        )

    @group.command("cross-entropy")
    def cross_entropy(
        file: list[str] | None = file,
        p: list[str] = p,
        q: list[str] = q,
        p_samples: str | None = p_samples,
        q_samples: str | None = q_samples,
        unit: str = unit,
        normalize: bool = normalize,
        smoothing: float | None = smoothing,
        missing: str | None = missing,
        json: str | None = json,
    ) -> None:
        """Cross-entropy of Q under P: the expected surprisal of Q where P is true."""
        counted = {"smoothing": smoothing, "missing": missing}
        pair = {"p": p, "q": q, "p-samples": p_samples, "q-samples": q_samples}
        raise typer.Exit(
            guarded(lambda: _two("cross_entropy", file, pair, json, unit, normalize, counted))
        )

    @group.command()
    def kl(
        file: list[str] | None = file,
        p: list[str] = p,
        q: list[str] = q,
        p_samples: str | None = p_samples,
        q_samples: str | None = q_samples,
        unit: str = unit,
        normalize: bool = normalize,
        smoothing: float | None = smoothing,
        missing: str | None = missing,
        json: str | None = json,
    ) -> None:
        """Kullback–Leibler divergence from P to Q: cross-entropy less the entropy of P."""
        counted = {"smoothing": smoothing, "missing": missing}
        pair = {"p": p, "q": q, "p-samples": p_samples, "q-samples": q_samples}
        raise typer.Exit(
            guarded(lambda: _two("kl_divergence", file, pair, json, unit, normalize, counted))
        )

    @group.command()
    def js(
        file: list[str] | None = file,
        p: list[str] = p,
        q: list[str] = q,
        p_samples: str | None = p_samples,
        q_samples: str | None = q_samples,
        unit: str = unit,
        normalize: bool = normalize,
        missing: str | None = missing,
        json: str | None = json,
    ) -> None:
        """Jensen–Shannon divergence: symmetric, and at most one bit."""
        counted = {"missing": missing}
        pair = {"p": p, "q": q, "p-samples": p_samples, "q-samples": q_samples}
        raise typer.Exit(
            guarded(lambda: _two("js_divergence", file, pair, json, unit, normalize, counted))
        )

    @group.command("mutual-information")
    def mutual_information(
        file: list[str] | None = file,
        joint: str | None = typer.Option(
            None, metavar="P,P;P,P", help="The joint distribution: rows of X, ';' between them."
        ),
        x: str | None = typer.Option(None, "--x", metavar="COLUMN", help="Values of FILE: X."),
        y: str | None = typer.Option(None, "--y", metavar="COLUMN", help="Values of FILE: Y."),
        unit: str = unit,
        normalize: bool = normalize,
        estimator: str | None = estimator,
        missing: str | None = missing,
        json: str | None = json,
    ) -> None:
        """Mutual information of X and Y: what either tells about the other."""
        counted = {"estimator": estimator, "missing": missing}
        pair = {"x": x, "y": y}
        raise typer.Exit(
            guarded(lambda: _dependence(file, joint, pair, json, unit, normalize, counted))
        )


# ---- which form was asked for --------------------------------------------------------------------


def _one(
    measure: str,
    words: list[str] | None,
    column: str | None,
    p: str | None,
    target: str | None,
    unit: str,
    normalize: bool,
    counted: dict[str, Any],
) -> int:
    from xent.scoring.measures import measure_columns, measure_numbers, measure_samples

    _refuse_flags(words or [])
    if column is not None and p is not None:
        raise OptionError(
            f"one of --column and --p must be given: got {column!r} and {p!r}. "
            "Hint: --column counts values, --p takes numbers as probabilities."
        )
    if column is not None:
        file = _file(words)
        _refuse({"normalize": normalize}, "probabilities, not with counted values")
        options = _given(counted)
        return _answer(
            target, file, lambda: measure_samples(measure, file, column, unit=unit, **options)
        )
    _refuse(counted, "--column, whose values are counted")
    options = {"unit": unit, "normalize": normalize}
    if p is not None:
        file = _file(words)
        return _answer(target, file, lambda: measure_columns(measure, file, p, **options))
    hint = "the values of a file's column are counted with --column NAME."
    numbers = _numbers(words or [], "the probabilities", hint)
    return _answer(target, None, lambda: measure_numbers(measure, numbers, **options))


def _two(
    measure: str,
    words: list[str] | None,
    pair: dict[str, Any],
    target: str | None,
    unit: str,
    normalize: bool,
    counted: dict[str, Any],
) -> int:
    from xent.scoring.measures import measure_columns, measure_numbers, measure_samples

    samples = [pair["p-samples"], pair["q-samples"]]
    if samples != [None, None]:
        _refuse({"p": pair["p"], "q": pair["q"]}, "probabilities, not with --p-samples")
        _refuse({"normalize": normalize}, "probabilities, not with counted values")
        _require_both(pair, "p-samples", "q-samples")
        file = _file(words)
        options = _given(counted)
        return _answer(
            target, file, lambda: measure_samples(measure, file, *samples, unit=unit, **options)
        )
    _refuse(counted, "--p-samples and --q-samples, whose values are counted")
    _require_both(pair, "p", "q")
    options = {"unit": unit, "normalize": normalize}
    if words:
        file = _file(words)
        columns = [_column(pair[name], name) for name in ("p", "q")]
        return _answer(target, file, lambda: measure_columns(measure, file, *columns, **options))
    hint = "columns of a file need the FILE too."
    numbers = [_numbers(pair[name], f"--{name}", hint) for name in ("p", "q")]
    return _answer(target, None, lambda: measure_numbers(measure, *numbers, **options))


def _dependence(
    words: list[str] | None,
    joint: str | None,
    pair: dict[str, Any],
    target: str | None,
    unit: str,
    normalize: bool,
    counted: dict[str, Any],
) -> int:
    from xent.scoring.measures import measure_numbers, measure_samples

    if joint is None:
        _refuse({"normalize": normalize}, "--joint, not with counted values")
        _require_both(pair, "x", "y", or_else="--joint 'P,P;P,P' gives a distribution in numbers")
        file = _file(words)
        options = _given(counted)
        columns = (pair["x"], pair["y"])
        return _answer(
            target,
            file,
            lambda: measure_samples("mutual_information", file, *columns, unit=unit, **options),
        )
    _refuse(pair | counted, "--x and --y, columns whose values are counted")
    if words:
        raise OptionError(
            f"--joint must come without a file: got {words[0]!r}. Hint: --joint takes all numbers "
            "as one word, such as '0.25,0.25;0.25,0.25'; --x and --y are columns of a file."
        )
    hint = "rows with semicolons."
    rows = [_numbers([row], "--joint", hint) for row in joint.split(";")]
    if len({len(row) for row in rows}) > 1:
        raise OptionError(
            f"the rows of --joint must have one length: got {', '.join(str(len(r)) for r in rows)} "
            "numbers. Hint: a pair that cannot occur has the probability 0."
        )
    return _answer(
        target,
        None,
        lambda: measure_numbers("mutual_information", rows, unit=unit, normalize=normalize),
    )


def _answer(target: str | None, file: str | None, compute: Callable[[], Measure]) -> int:
    check_json(target, *([] if file is None else [Path(file)]))
    measure = compute()
    if target != "-":
        from xent.report import render_measure

        sys.stdout.write(render_measure(measure))
    if target is not None:
        write_json(target, measure.to_dict())
    return OK


# ---- words -----------------------------------------------------------------------------------


def _numbers(words: list[str], name: str, hint: str) -> list[float]:
    """Return the numbers in words, which stand with commas or spaces between."""
    text = " ".join(words).strip()
    if not text:
        raise OptionError(f"{name} must be numbers: got none. {_NUMBERS}{hint}")
    numbers = []
    for piece in text.split(","):
        for word in piece.split() or [""]:
            try:
                number = float(word)
                # Python reads 0_5 as 5, and 1e-400 as 0, which would be another distribution.
                if "_" in word or (number == 0.0 and Decimal(word) != 0):
                    raise ValueError
            except ValueError:
                got = repr(word) if word else "nothing before or after a comma"
                raise OptionError(f"{name} must be numbers: got {got}. {_NUMBERS}{hint}") from None
            numbers.append(number)
    return numbers


def _file(words: list[str] | None) -> str:
    if words is None or len(words) != 1:
        got = ", ".join(repr(word) for word in words or []) or "none"
        raise OptionError(
            f"one FILE must go with these options: got {got}. Hint: numbers are one word, with "
            "commas between, such as --p 0.5,0.5; a column is named by an option."
        )
    return words[0]


def _refuse_flags(words: list[str]) -> None:
    """Refuse misspelt options, which the parser passes on for the sake of negative numbers."""
    for word in words:
        if word.startswith("--"):
            raise OptionError(
                f"options must be those of the command: got {word!r}. Hint: --help lists them."
            )


def _column(words: list[str], name: str) -> str:
    if len(words) != 1:
        raise OptionError(
            f"--{name} must name one column of the file: got {', '.join(map(repr, words))}. "
            "Hint: leave the file out to give numbers."
        )
    return words[0]


def _require_both(pair: dict[str, Any], first: str, second: str, or_else: str = "") -> None:
    lacking = [f"--{name}" for name in (first, second) if pair[name] in (None, [])]
    if lacking:
        hint = or_else or "samples are --p-samples and --q-samples, two columns of a file"
        raise OptionError(
            f"--{first} and --{second} must both be given: got no {' and no '.join(lacking)}. "
            f"Hint: {hint}."
        )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse(options: dict[str, Any], place: str) -> None:
    """Refuse options that belong elsewhere, rather than ignore them."""
    for name, value in options.items():
        if value not in (None, False, []):
            said = f"--{name}" if value is True else f"--{name} {value}"
            raise OptionError(
                f"--{name} must go with {place}: got {said!r} here. Hint: leave it out."
            )
