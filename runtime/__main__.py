"""gan-run: use an exported generator.

gan-run sample generator.onnx -n 64 --seed 0 -o grid.png
gan-run info generator.onnx
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from . import terminal
from .generator import load
from .manifest import read_artifact

if TYPE_CHECKING:
    from .manifest import Manifest, Port

app = terminal.app("Use an exported generator: sample from it, or see what it is.")

File = Annotated[Path, typer.Argument(help="An artifact that gan-export wrote.", show_default=False)]


@app.command()
def sample(
    file: File,
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write; its ending names the format.")],
    n: Annotated[int, typer.Option("-n", help="How many to draw.")] = 64,
    seed: Annotated[int | None, typer.Option(help="0 to 4294967295; the same seed draws the same.")] = None,
    label: Annotated[int | None, typer.Option(help="Class to draw, where the generator is conditional.")] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Pictures in a row; as square as it goes by default.")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, onnxruntime or openvino.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="Threads of the engine; its own choice by default.")] = None,
) -> None:
    """Draw new pictures and lay them out in one grid."""
    from . import images

    images.check_format(output)
    with load(file, engine, device, threads) as generator:
        items = generator.sample(n, seed, label)
        pictures = generator.manifest.interface.output.role == "image"
        sheet = images.grid(items.astype(np.uint8, copy=False), columns) if pictures else images.scatter(items)
        images.save(sheet, output)
        terminal.note(f"{output}: {n} drawn with {generator.engine}")


@app.command()
def info(
    file: File, as_json: Annotated[bool, typer.Option("--json", help="The whole manifest as JSON.")] = False
) -> None:
    """Show what an artifact is, where it comes from and what was proven of it."""
    manifest, model = read_artifact(file)
    if as_json:
        import json

        typer.echo(json.dumps(json.loads(manifest.to_json()), indent=2))
        return
    for name, value in describe(manifest, len(model)):
        typer.echo(terminal.printable(f"{name:<10} {value}"))


def describe(manifest: Manifest, size: int) -> list[tuple[str, str]]:
    """The manifest as rows for people."""
    interface, source = manifest.interface, manifest.source
    made = f"{source.variant or 'not one of ours'}, step {source.step}, data {source.data or 'unknown'}"
    rows = [
        ("kind", interface.kind.replace("-", " ")),
        *[("input", _port(port)) for port in interface.inputs],
        *[("output", _port(port)) for port in interface.outputs],
        ("noise", interface.noise or "none"),
        ("classes", ", ".join(interface.classes) or "none"),
        ("precision", f"{manifest.precision}, {size / 1e6:.1f} MB"),
        ("norm", manifest.norm_mode),
        ("source", made),
        ("written by", source.program),
        ("digest", manifest.digest),
    ]
    rows += [("proof", str(proof)) for proof in manifest.parity]
    if manifest.unproven:
        rows.append(("proof", f"not run ({manifest.unproven})"))
    return rows


def _port(port: Port) -> str:
    shape = " × ".join(str(size) for size in port.shape)
    span = "" if port.range is None else f", {port.range[0]:g} to {port.range[1]:g}"
    return f"{port.name}: {port.role} {port.dtype} [{shape}]{span}"


def main() -> None:
    """Entry point of the command `gan-run`."""
    terminal.run(lambda: app, "gan-run", "cpu")


if __name__ == "__main__":
    main()
