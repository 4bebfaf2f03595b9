"""gan-train: train a GAN into a run folder.

gan-train --list
gan-train dcgan --data digits --out runs/digits --epochs 100
gan-train dcgan --data digits --out runs/digits --resume
gan-train report runs/digits
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganedge.runtime import memory
from ganedge.runtime.cli import terminal

if TYPE_CHECKING:
    from ganedge.models import Variant


def build() -> typer.Typer:
    """Make the command: one subcommand per variant."""
    from ganedge.models import VARIANTS

    app = terminal.app("Train a GAN. Each variant is a command with options of its own: gan-train VARIANT --help")

    @app.callback(invoke_without_command=True)
    def describe(
        context: typer.Context,
        listed: Annotated[bool, typer.Option("--list", help="One variant per line, name first.")] = False,
    ) -> None:
        if listed:
            width = max(len(variant.name) for variant in VARIANTS)
            for variant in VARIANTS:
                typer.echo(f"{variant.name:<{width}}  {variant.summary}")
        elif context.invoked_subcommand is None:
            typer.echo(context.get_help())
            raise typer.Exit(2)

    for variant in VARIANTS:
        _add(app, variant)
    _add_report(app)
    return app


def _add(app: typer.Typer, variant: type[Variant]) -> None:
    """Add one variant as a subcommand, with the options of its config and of the trainer."""
    from ganedge.runtime.cli import options
    from ganedge.train import train
    from ganedge.train.settings import Settings

    def run(**given: Any) -> None:
        trained = train(variant.name, **given)
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            last = trained.last_metrics
            losses = ", ".join(f"{name} {value:.3g}" for name, value in last.items() if name.startswith("loss"))
            terminal.note(f"trained to step {last.get('step', 0)}: {losses}; samples are in {trained.path / 'samples'}")
            terminal.note(f"{trained}: next, gan-export {trained} --format onnx")

    wanted = options.parameters(Settings, "Training", negatable=True)
    wanted += options.parameters(variant.config_class, variant.name, negatable=True)
    app.command(variant.name, help=variant.summary)(options.with_signature(run, wanted))


def _add_report(app: typer.Typer) -> None:
    """Add `gan-train report`."""
    from ganedge.runtime.cli import options
    from ganedge.train import report
    from ganedge.train.run_report import ReportSpec

    def write(run: Path, **given: Any) -> None:
        made = report(run, **given)
        terminal.note(f"{made}: " + ", ".join(f"{name} {value:.4g}" for name, value in made.figures.items()))

    parameters = [options.argument("run", Path, "Run folder that gan-train wrote."), *options.parameters(ReportSpec)]
    text = "Write one HTML page about a run: curves, samples, FID, precision and recall, nearest neighbours, settings."
    app.command("report", help=text)(options.with_signature(write, parameters))


def main() -> None:
    """Entry point of the command `gan-train`."""
    memory.keep_freed()
    terminal.run(build, "gan-train", "train")


if __name__ == "__main__":
    main()
