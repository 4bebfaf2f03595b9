"""gan-compress: teach a generator ten times smaller to draw what a large one draws.

gan-compress runs/monet --data monet2photo/ --out runs/monet-small
gan-compress runs/mnist --macs 0.1 --out runs/mnist-small
gan-compress theirs.onnx --kind image --data pictures/ --target-ms 30 --engine onnxruntime --threads 2 --out runs/small
"""

from __future__ import annotations

import inspect
from typing import Any

import typer

from ganedge.runtime.cli import options, terminal


def build() -> typer.Typer:
    """Make the command."""
    from ganedge.export.compression import LEARNING, TRAINING, CompressSpec
    from ganedge.export.source import SourceSpec
    from ganedge.export.student_size import SizeSpec
    from ganedge.models.student import PictureConfig
    from ganedge.train.settings import Settings

    def some(cls: type, names: tuple[str, ...], panel: str) -> list[inspect.Parameter]:
        return [each for each in options.parameters(cls, panel, negatable=True) if each.name in names]

    app = terminal.app("Teach a generator ten times smaller to draw what a large one draws.")
    source = "A run that gan-train wrote, an .onnx file, FILE.py:NAME or module:NAME of a torch module, or with --arch "
    parameters = [
        options.argument("source", str, source + "a file of weights."),
        *options.parameters(CompressSpec),
        *options.parameters(SizeSpec, "Size"),
        *some(PictureConfig, LEARNING, "Learning"),
        *some(Settings, TRAINING, "Training"),
        *options.parameters(SourceSpec, "Teacher"),
    ]
    app.command()(options.with_signature(_compress, parameters))
    return app


def _compress(source: str, **given: Any) -> None:
    """Train a small generator on what a large one makes, export it, and show both side by side."""
    from ganedge.export import compress

    compress(source, progress=terminal.note, **given)


def main() -> None:
    """Entry point of the command `gan-compress`."""
    terminal.run(build, "gan-compress", "train")


if __name__ == "__main__":
    main()
