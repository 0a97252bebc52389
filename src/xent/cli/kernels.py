"""``xent kernels``: which kernel would run, and why no other."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from xent.cli.process import OK, check_json, guarded, write_json

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["add_to"]


def add_to(app: Typer) -> None:
    """Add the command to the program."""
    import typer

    @app.command()
    def kernels(
        shapes: list[str] | None = typer.Argument(
            None,
            metavar="[SHAPE]...",
            help="Shapes of logits, such as 4096x32000 or 8x21x512x512 with classes second; "
            "by default those that speed is measured on.",
        ),
        dtype: str | None = typer.Option(
            None, help="Of the logits: float32, float64, bfloat16 or float16."
        ),
        soft: bool = typer.Option(False, "--soft", help="Targets are probabilities."),
        softcap: float | None = typer.Option(None, help="Logits are capped softly at this."),
        device: str = typer.Option("cpu", help="Where the arrays are: cpu, cuda, …"),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the answers to FILE as JSON; '-' prints only that."
        ),
    ) -> None:
        """Say which kernel would run softmax cross-entropy of SHAPE, and why no other."""
        options = {"dtype": dtype, "soft": soft, "softcap": softcap, "device": device}
        raise typer.Exit(guarded(lambda: _kernels(shapes or [], json, options)))


def _kernels(shapes: list[str], target: str | None, options: dict[str, Any]) -> int:
    from xent.losses.kernel_table import kernel_table, render

    check_json(target)
    answers = kernel_table(shapes, **options)
    if target != "-":
        sys.stdout.write(render(answers))
    if target is not None:
        write_json(target, [answer.to_dict() for answer in answers])
    return OK
