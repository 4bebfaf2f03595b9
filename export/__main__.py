"""gan-export: turn a generator into an artifact that is proven to be the same generator.

gan-export runs/digits --format onnx
gan-export runs/horses --which b2a --fp16 --io uint8 -o generator.onnx
gan-export nets.py:Generator --kwargs '{"width": 64}' --weights netG.pth --input 100x1x1 --kind latent
gan-export latest_net_G.pth --arch resnet_9blocks --calibrate pictures/
gan-export generator.onnx --format trt --fp16
gan-export generator.onnx --format triton -o models
gan-export runs/digits --format web -o digits-web
gan-export --list
"""

from __future__ import annotations

import inspect
from typing import Any

import typer

from ganedge.runtime.cli import options, terminal


def build() -> typer.Typer:
    """Make the command."""
    from ganedge.export.source import SourceSpec
    from ganedge.export.spec import ExportSpec

    app = terminal.app("Turn a generator into an artifact that is proven to be the same generator.")
    source = "A run that gan-train wrote, an .onnx file, FILE.py:NAME or module:NAME of a torch module, or with --arch "
    listing = typer.Option(
        None, "--list", help="Show what this machine can build and run, by format and precision, and why not."
    )
    parameters = [
        options.argument("source", str | None, source + "a file of weights.", required=False),
        inspect.Parameter("list_abilities", inspect.Parameter.KEYWORD_ONLY, default=listing, annotation=bool | None),
        *options.parameters(ExportSpec),
        *options.parameters(SourceSpec, "Source"),
    ]
    app.command()(options.with_signature(_export, parameters))
    return app


def _export(source: str | None = None, list_abilities: bool = False, **given: Any) -> None:
    """Export, prove on real inputs against the FP32 generator, and write the file only if the proof holds."""
    from ganedge.export import export_all
    from ganedge.export.source import SourceSpec
    from ganedge.export.spec import ExportSpec
    from ganedge.runtime.cli.progress import Steps
    from ganedge.runtime.errors import UsageError

    if list_abilities:
        from ganedge.export.abilities import table

        typer.echo("\n".join(table()))
        return
    if source is None:
        raise UsageError("nothing to export: give a run, an .onnx file or a module (gan-export --help)")
    if given.get("int8") and given.pop("fp16", False) and given.setdefault("remainder", "fp16") != "fp16":
        raise UsageError(f"--fp16 and --remainder {given['remainder']} contradict each other: choose one")
    settings = options.collect(SourceSpec, given) | options.collect(ExportSpec, given)
    with Steps() as steps:
        export_all(
            source,
            progress=steps.say,
            phase=lambda phase: steps.show(phase, phase.done, phase.total),
            **settings,
        )


def main() -> None:
    """Entry point of the command `gan-export`."""
    terminal.run(build, "gan-export", "export")


if __name__ == "__main__":
    main()
