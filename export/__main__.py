"""gan-export: turn a generator into an artifact that is proven to be the same generator.

gan-export runs/digits --format onnx
gan-export runs/horses --which b2a --fp16 --io uint8 -o generator.onnx
gan-export nets.py:Generator --kwargs '{"width": 64}' --weights netG.pth --input 100x1x1 --kind latent
gan-export latest_net_G.pth --arch resnet_9blocks --calibrate pictures/
gan-export generator.onnx --format trt --fp16
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ganedge.runtime import terminal

if TYPE_CHECKING:
    from ganedge.export.original import Original


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Turn a generator into an artifact that is proven to be the same generator.")

    @app.command()
    def export(
        source: Annotated[
            str | None,
            typer.Argument(
                help="A run that gan-train wrote, an .onnx file, FILE.py:NAME or module:NAME of a torch module, or "
                "with --arch a checkpoint.",
                show_default=False,
            ),
        ] = None,
        form: Annotated[str, typer.Option("--format", help="What to write: onnx, trt, or both with a comma.")] = "onnx",
        fp16: Annotated[
            bool, typer.Option("--fp16", help="FP16 weights and arithmetic, FP32 inputs and outputs.")
        ] = False,
        int8: Annotated[bool, typer.Option("--int8", help="INT8 weights and arithmetic where it pays.")] = False,
        output: Annotated[
            Path | None,
            typer.Option(
                "--output", "-o", help="File to write (a folder for several formats); by the source otherwise."
            ),
        ] = None,
        io: Annotated[
            Literal["float", "uint8"], typer.Option(help="What crosses the boundary: uint8 is [N, H, W, C].")
        ] = "float",
        calibrate: Annotated[
            str | None, typer.Option(help="A folder of pictures, or a number of inputs, to calibrate with.")
        ] = None,
        target_engine: Annotated[
            Literal["ort", "openvino", "trt"] | None,
            typer.Option("--for", help="The engine an INT8 graph is made for; what this machine runs best otherwise."),
        ] = None,
        tolerance: Annotated[
            str | None, typer.Option(help="psnr=40,maxabs=1e-3 or none; by precision otherwise.")
        ] = None,
        which: Annotated[str | None, typer.Option(help="One of a run's generators: a2b or b2a.")] = None,
        norm_mode: Annotated[
            Literal["eval", "batch"], typer.Option(help="BatchNorm with the statistics kept, or each picture's own.")
        ] = "eval",
        size: Annotated[
            str | None,
            typer.Option(help="Pictures that go in: 256, 256x320, dynamic; for trt MIN,OPT,MAX."),
        ] = None,
        kind: Annotated[
            Literal["latent", "image"] | None, typer.Option(help="What goes into a foreign generator.")
        ] = None,
        shape: Annotated[
            str | None, typer.Option("--input", help="One input of it: 100, 100x1x1, 3x256x256, 3xHxW.")
        ] = None,
        out_shape: Annotated[
            str | None, typer.Option("--output-shape", help="One picture, 1x28x28, where it gives a flat vector.")
        ] = None,
        value_range: Annotated[str, typer.Option("--range", help="Values of black and white in it.")] = "-1,1",
        noise: Annotated[Literal["normal", "uniform"], typer.Option(help="The latents it was trained on.")] = "normal",
        classes: Annotated[
            str | None, typer.Option(help="Classes of its second input: a number, or names with commas.")
        ] = None,
        kwargs: Annotated[str | None, typer.Option(help="Arguments that make it, as JSON.")] = None,
        weights: Annotated[Path | None, typer.Option(help="Its weights.")] = None,
        arch: Annotated[
            str | None, typer.Option(help="resnet_9blocks, resnet_6blocks, unet_256 or unet_128, from weights alone.")
        ] = None,
        norm: Annotated[Literal["instance", "batch"], typer.Option(help="What --arch normalises with.")] = "instance",
        trust: Annotated[bool, typer.Option("--trust", help="Read weights that can execute code.")] = False,
        batch: Annotated[str, typer.Option(help="MIN,OPT,MAX batch of a TensorRT engine.")] = "1,1,16",
        workspace: Annotated[int | None, typer.Option(min=1, help="MiB that TensorRT may use while it builds.")] = None,
        level: Annotated[int | None, typer.Option(min=0, max=5, help="TensorRT's builder optimisation level.")] = None,
        portable: Annotated[
            bool, typer.Option("--portable", help="An engine that newer versions and related GPUs run too.")
        ] = False,
        targets: Annotated[
            str | None, typer.Option("--target", help="GPUs that TensorRT for RTX builds for: sm86,sm89,sm120.")
        ] = None,
        timing_cache: Annotated[
            Path | None, typer.Option(help="Folder of TensorRT's timing caches; one file per device and version.")
        ] = None,
    ) -> None:
        """Export, prove on real inputs against the FP32 generator, and write the file only if that holds."""
        from ganedge.runtime.errors import UsageError

        if source is None:
            raise UsageError("nothing to export: give a run, an .onnx file or a module (gan-export --help)")
        if fp16 and int8:
            raise UsageError("--fp16 and --int8 exclude each other: export twice")
        forms = _forms(form)
        from ganedge.export.artifact import Wanted, make
        from ganedge.export.parity import read_gate

        wanted = Wanted(
            precision="fp16" if fp16 else "int8" if int8 else None,
            io=io,
            calibrate=_calibrate(calibrate),
            gate=None if tolerance is None else read_gate(tolerance),
            target=target_engine or ("trt" if "trt" in forms else None),
        )
        said = {
            "kwargs": kwargs,
            "weights": weights,
            "input": shape,
            "output": out_shape,
            "kind": kind,
            "range": _range(value_range),
            "noise": noise,
            "classes": _classes(classes),
            "norm": norm_mode,
            "size": size,
            "trust": trust,
            "arch_norm": norm,
        }
        original = _open(source, which, arch, said)
        proven = make(original, wanted)
        engine = {
            "batch": batch,
            "size": size,
            "workspace": workspace,
            "level": level,
            "portable": portable,
            "targets": targets,
            "timing_cache": timing_cache,
        }
        _write(Path(source), original, proven, forms, output, engine)

    return app


def _open(source: str, which: str | None, arch: str | None, said: dict[str, Any]) -> Original:
    """Find out what the source is; torch is imported only for what needs it."""
    from ganedge.runtime.errors import UsageError

    path = Path(source)
    if path.suffix == ".onnx":
        from ganedge.export.from_onnx import of_onnx, with_size
        from ganedge.export.sizes import read_size

        if said["norm"] != "eval":
            raise UsageError("--norm-mode batch: a graph's normalisation is settled; export it again from PyTorch")
        original = of_onnx(path, said["kind"], said["range"], said["noise"], said["classes"])
        size = said["size"]
        return original if size is None or "," in size or size == "dynamic" else with_size(original, *read_size(size))
    if arch is not None or (":" in source and not path.exists()):
        from ganedge.export import foreign

        settings = foreign.Foreign(**{**said, "kwargs": foreign.read_kwargs(said["kwargs"])})
        if arch is not None:
            return foreign.of_checkpoint(path, arch, settings)
        return foreign.of_module(source, settings)
    if path.suffix in (".pt", ".pth", ".ckpt", ".safetensors"):
        raise UsageError(f"{source} is weights alone: give their module, FILE.py:NAME --weights {source}, or --arch")
    from ganedge.export.from_torch import of_run

    return of_run(path, which, said["norm"], said["size"])


def _write(
    source: Path, original: Original, proven: Any, forms: list[str], output: Path | None, engine: dict[str, Any]
) -> None:
    """Write every format and say what was proven."""
    from ganedge.export.artifact import default_path
    from ganedge.runtime.errors import UsageError
    from ganedge.runtime.files import write_whole

    manifest = proven.manifest
    for text in proven.notes:
        terminal.note(text)
    for proof in manifest.parity:
        terminal.note(str(proof))
    if manifest.unproven:
        terminal.note(f"parity: not run ({manifest.unproven})")
    paths = {}
    for form in forms:
        path = default_path(original, manifest.precision, {"onnx": "onnx", "trt": "engine"}[form])
        if output is not None:
            if len(forms) > 1 and output.suffix in (".onnx", ".engine"):
                raise UsageError(f"-o {output}: several formats go into a folder")
            path = output / path.name if len(forms) > 1 else output
        paths[form] = path
    onnx_path = paths.get("onnx") or paths["trt"].with_suffix(".onnx")
    if "trt" in paths and paths["trt"].suffix == ".onnx":
        raise UsageError(f"-o {output}: an engine is no .onnx; give it another ending, such as .engine")
    if source.suffix == ".onnx" and source.resolve() == onnx_path.resolve():
        raise UsageError(f"{onnx_path} is the source itself: name another file with -o")
    write_whole(onnx_path, proven.data)
    terminal.note(f"{onnx_path}: {onnx_path.stat().st_size / 1e6:.1f} MB, {manifest.precision}")
    if "trt" in forms:
        from ganedge.export.to_tensorrt import Settings, write_engine

        written = write_engine(onnx_path, paths["trt"], proven, Settings.read(**engine), terminal.note)
        terminal.note(f"{written}: {written.stat().st_size / 1e6:.1f} MB, {manifest.precision}")


def _forms(text: str) -> list[str]:
    from ganedge.runtime.errors import UsageError

    forms = text.split(",")
    for form in forms:
        if form not in ("onnx", "trt"):
            raise UsageError(f"--format {text}: choose onnx, trt, or both with a comma")
    return forms


def _calibrate(text: str | None) -> Path | int | None:
    from ganedge.runtime.errors import UsageError

    if text is None or not text.isdigit():
        return None if text is None else Path(text)
    if not 1 <= int(text) <= 4096:
        raise UsageError(f"--calibrate {text}: give 1 to 4096 inputs, or a folder of pictures")
    return int(text)


def _range(text: str) -> tuple[float, float]:
    from ganedge.runtime.errors import UsageError

    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not -1e6 <= low < high <= 1e6:
        raise UsageError(f"--range {text}: give the values of black and white, such as -1,1 or 0,1")
    return low, high


def _classes(text: str | None) -> tuple[str, ...]:
    from ganedge.runtime.errors import UsageError

    if text is None:
        return ()
    names = tuple(map(str, range(int(text)))) if text.isdigit() and len(text) < 6 else tuple(text.split(","))
    if len(names) < 1 or not all(names):
        raise UsageError(f"--classes {text}: give a number, or names with commas")
    return names


def main() -> None:
    """Entry point of the command `gan-export`."""
    terminal.run(build, "gan-export", "export")


if __name__ == "__main__":
    main()
