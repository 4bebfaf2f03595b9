"""gan-bench: what an artifact costs beside eager PyTorch, and whether it still gives the same pictures.

gan-bench runs/digits/generator.onnx --against runs/digits --batch 1,8 --json out.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ganedge.runtime import terminal
from ganedge.runtime.errors import GanEdgeError, UsageError


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("What an artifact costs beside eager PyTorch, and whether it still gives the same pictures.")

    @app.command()
    def bench(
        files: Annotated[list[Path], typer.Argument(help="Artifacts that gan-export wrote.", show_default=False)],
        against: Annotated[
            Path | None, typer.Option(help="The run they came from, to compare with eager PyTorch.", show_default=False)
        ] = None,
        batch: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,8",
        engine: Annotated[str, typer.Option(help="auto, all, onnxruntime or openvino.")] = "auto",
        device: Annotated[str, typer.Option(help="cpu or cuda, the same for every competitor.")] = "cpu",
        threads: Annotated[
            int | None, typer.Option(min=1, help="Threads for every competitor; all cores by default.")
        ] = None,
        seconds: Annotated[
            float, typer.Option(min=0.0, help="Time each competitor at least this long, seconds.")
        ] = 3.0,
        iterations: Annotated[int, typer.Option(min=1, help="And at least this often.")] = 50,
        json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole report here.")] = None,
    ) -> None:
        """Time artifacts and eager PyTorch in turns, and print a table and then one JSON line."""
        import json

        from ganedge.benchmarks import latency, report
        from ganedge.runtime.files import write_whole

        measured = latency.measure(files, against, _batches(batch), engine, device, threads, seconds, iterations)
        typer.echo(report.table(measured))
        line = json.dumps(measured)
        typer.echo(line)
        if json_file is not None:
            write_whole(json_file, line + "\n")
        if any(result["same"] is False for result in measured["results"]):
            raise GanEdgeError("an artifact does not give the same pictures as the run it was compared with")

    return app


def _batches(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--batch is {text!r}: give whole numbers of 1 or more, separated by commas")
    return sizes


def main() -> None:
    """Entry point of the command `gan-bench`."""
    terminal.run(build, "gan-bench", "export")


if __name__ == "__main__":
    main()
