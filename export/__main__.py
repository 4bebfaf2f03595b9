"""gan-export: turn the generator of a run into an artifact that is proven to be the same generator.

gan-export runs/digits --format onnx
gan-export runs/digits --format onnx --fp16 -o generator-fp16.onnx
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ganedge.runtime import terminal


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Turn the generator of a run into an artifact that is proven to be the same generator.")

    @app.command()
    def export(
        run: Annotated[Path, typer.Argument(help="A folder that gan-train wrote.", show_default=False)],
        form: Annotated[Literal["onnx"], typer.Option("--format", help="What to write.")] = "onnx",
        fp16: Annotated[
            bool, typer.Option("--fp16", help="FP16 weights and arithmetic, FP32 inputs and outputs.")
        ] = False,
        output: Annotated[
            Path | None, typer.Option("--output", "-o", help="File to write; in the run folder by default.")
        ] = None,
    ) -> None:
        """Export, prove on real inputs against the eager FP32 generator, and write the file only if that holds."""
        from ganedge.export.artifact import export_run

        writers = {"onnx": export_run}
        path, manifest = writers[form](run, output, "fp16" if fp16 else "fp32")
        for proof in manifest.parity:
            terminal.note(str(proof))
        if manifest.unproven:
            terminal.note(f"parity: not run ({manifest.unproven})")
        terminal.note(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {manifest.precision}")

    return app


def main() -> None:
    """Entry point of the command `gan-export`."""
    terminal.run(build, "gan-export", "export")


if __name__ == "__main__":
    main()
