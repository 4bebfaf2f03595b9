"""gan-run: use an exported generator.

gan-run sample generator.onnx -n 64 --seed 0 -o grid.png
gan-run interpolate generator.onnx 3 8 -o path.png
gan-run translate monet2photo.onnx paintings/ -o photos/
gan-run info generator.onnx
gan-run tune generator.onnx
gan-run verify generator.onnx
gan-run rebuild generator.engine
gan-run serve generator.onnx --port 8000
gan-run doctor --selftest
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from .cli import options, terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import typer

MODULES = {
    "sample": "draw",
    "interpolate": "draw",
    "translate": "translate",
    "info": "inspection",
    "tune": "inspection",
    "verify": "inspection",
    "rebuild": "inspection",
    "serve": "serve",
    "doctor": "inspection",
}
"""The commands, and the module of `runtime.cli` that holds each."""


def build(words: Sequence[str] = ()) -> typer.Typer:
    """Make the command.

    Args:
        words: The command line. Where it names a command, only that one is made, and help texts are read for --help
            alone: building the others would take a third of the imports' time.
    """
    named = words[0] if words and words[0] in MODULES else None
    texts = named is None or not {"-h", "--help"}.isdisjoint(words)
    app = terminal.app("Use an exported generator: sample from it, translate pictures with it, or see what it is.")
    app.callback()(lambda: None)  # A group, also with one command.
    for name in [named] if named else MODULES:
        function, arguments = importlib.import_module(f".cli.{MODULES[name]}", __package__).COMMANDS[name]
        app.command(name)(options.command(function, *arguments, texts=texts))
    return app


def main() -> None:
    """Entry point of the command `gan-run`."""
    terminal.run(lambda: build(sys.argv[1:]), "gan-run", "cpu")


if __name__ == "__main__":
    main()
