"""gan-export: turn a generator into an artifact that is proven to be the same generator.

gan-export runs/digits --format onnx
gan-export runs/horses --which b2a --fp16 --io uint8 -o generator.onnx
gan-export nets.py:Generator --kwargs '{"width": 64}' --weights netG.pth --input 100x1x1 --kind latent
gan-export latest_net_G.pth --arch resnet_9blocks --calibrate pictures/
gan-export generator.onnx --format trt --fp16
gan-export generator.onnx --format triton -o models
gan-export --list
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ganedge.runtime import terminal

if TYPE_CHECKING:
    from ganedge.export.artifact import Proven
    from ganedge.export.original import Original
    from ganedge.runtime.manifest import Precision


SOURCE, PROOF, DEPLOY = "Source", "Proof", "TensorRT and Triton"
"""Groups of options in the help; what stands outside them says what to write."""


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
        listed: Annotated[
            bool, typer.Option("--list", help="Formats × precisions: what this machine can build and run, and why not.")
        ] = False,
        form: Annotated[
            str, typer.Option("--format", help="What to write: onnx, trt, triton, or several with commas.")
        ] = "onnx",
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
            str | None,
            typer.Option(help="A folder of pictures, or a number of inputs, to calibrate with.", rich_help_panel=PROOF),
        ] = None,
        target_engine: Annotated[
            Literal["ort", "openvino", "trt"] | None,
            typer.Option("--for", help="The engine an INT8 graph is made for; what this machine runs best otherwise."),
        ] = None,
        tolerance: Annotated[
            str | None, typer.Option(help="psnr=40,maxabs=1e-3 or none; by precision otherwise.", rich_help_panel=PROOF)
        ] = None,
        which: Annotated[
            str | None, typer.Option(help="One of a run's generators: a2b or b2a.", rich_help_panel=SOURCE)
        ] = None,
        at: Annotated[
            str,
            typer.Option(
                "--checkpoint", help="Of a run: last, best (trained with --features) or a step.", rich_help_panel=SOURCE
            ),
        ] = "last",
        norm_mode: Annotated[
            Literal["eval", "batch"],
            typer.Option(help="BatchNorm with the statistics kept, or each picture's own.", rich_help_panel=SOURCE),
        ] = "eval",
        size: Annotated[
            str | None,
            typer.Option(
                help="Pictures that go in: 256, 256x320, dynamic; for trt MIN,OPT,MAX.", rich_help_panel=SOURCE
            ),
        ] = None,
        kind: Annotated[
            Literal["latent", "image"] | None,
            typer.Option(help="What goes into a foreign generator.", rich_help_panel=SOURCE),
        ] = None,
        shape: Annotated[
            str | None,
            typer.Option("--input", help="One input of it: 100, 100x1x1, 3x256x256, 3xHxW.", rich_help_panel=SOURCE),
        ] = None,
        out_shape: Annotated[
            str | None,
            typer.Option(
                "--output-shape", help="One picture, 1x28x28, where it gives a flat vector.", rich_help_panel=SOURCE
            ),
        ] = None,
        value_range: Annotated[
            str, typer.Option("--range", help="Values of black and white in it.", rich_help_panel=SOURCE)
        ] = "-1,1",
        noise: Annotated[
            Literal["normal", "uniform"], typer.Option(help="The latents it was trained on.", rich_help_panel=SOURCE)
        ] = "normal",
        classes: Annotated[
            str | None,
            typer.Option(help="Classes of its second input: a number, or names with commas.", rich_help_panel=SOURCE),
        ] = None,
        kwargs: Annotated[
            str | None, typer.Option(help="Arguments that make it, as JSON.", rich_help_panel=SOURCE)
        ] = None,
        weights: Annotated[Path | None, typer.Option(help="Its weights.", rich_help_panel=SOURCE)] = None,
        arch: Annotated[
            str | None,
            typer.Option(
                help="From weights alone: resnet_9blocks, resnet_6blocks, unet_256, unet_128, or auto.",
                rich_help_panel=SOURCE,
            ),
        ] = None,
        norm: Annotated[
            Literal["instance", "batch"], typer.Option(help="What --arch normalises with.", rich_help_panel=SOURCE)
        ] = "instance",
        trust: Annotated[
            bool, typer.Option("--trust", help="Read weights that can execute code.", rich_help_panel=SOURCE)
        ] = False,
        batch: Annotated[
            str, typer.Option(help="MIN,OPT,MAX batch of a TensorRT engine.", rich_help_panel=DEPLOY)
        ] = "1,1,16",
        workspace: Annotated[
            int | None, typer.Option(min=1, help="MiB that TensorRT may use while it builds.", rich_help_panel=DEPLOY)
        ] = None,
        level: Annotated[
            int | None,
            typer.Option(min=0, max=5, help="TensorRT's builder optimisation level.", rich_help_panel=DEPLOY),
        ] = None,
        portable: Annotated[
            bool,
            typer.Option(
                "--portable", help="An engine that newer versions and related GPUs run too.", rich_help_panel=DEPLOY
            ),
        ] = False,
        targets: Annotated[
            str | None,
            typer.Option(
                "--target", help="GPUs that TensorRT for RTX builds for: sm86,sm89,sm120.", rich_help_panel=DEPLOY
            ),
        ] = None,
        timing_cache: Annotated[
            Path | None,
            typer.Option(
                help="Folder of TensorRT's timing caches; one file per device and version.", rich_help_panel=DEPLOY
            ),
        ] = None,
        dla: Annotated[
            int | None, typer.Option(min=0, help="Core of a Jetson's DLA to build for.", rich_help_panel=DEPLOY)
        ] = None,
        backend: Annotated[
            Literal["onnxruntime", "tensorrt"],
            typer.Option("--triton-backend", help="What the Triton server runs it with.", rich_help_panel=DEPLOY),
        ] = "onnxruntime",
        instances: Annotated[
            int,
            typer.Option(min=1, help="Instances of the model on each device of the server.", rich_help_panel=DEPLOY),
        ] = 1,
    ) -> None:
        """Export, prove on real inputs against the FP32 generator, and write the file only if that holds."""
        from ganedge.runtime.errors import UsageError

        if listed:
            from ganedge.export.abilities import table

            typer.echo("\n".join(table()))
            return
        if source is None:
            raise UsageError("nothing to export: give a run, an .onnx file or a module (gan-export --help)")
        if fp16 and int8:
            raise UsageError("--fp16 and --int8 exclude each other: export twice")
        forms = _forms(form)
        from ganedge.export.artifact import Wanted, make
        from ganedge.export.parity import read_gate
        from ganedge.export.sizes import read_range
        from ganedge.export.to_triton import check_backend

        check_backend(backend, forms)
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
            "range": read_range(value_range),
            "noise": noise,
            "classes": _classes(classes),
            "norm": norm_mode,
            "size": size,
            "trust": trust,
            "arch_norm": norm,
        }
        original = _open(source, which, arch, at, said)
        proven = make(original, wanted)
        deploy = {
            "batch": batch,
            "size": size,
            "workspace": workspace,
            "level": level,
            "portable": portable,
            "targets": targets,
            "timing_cache": timing_cache,
            "dla": dla,
        }
        _write(Path(source), original, proven, forms, output, deploy, backend, instances)

    return app


def _open(source: str, which: str | None, arch: str | None, at: str, said: dict[str, Any]) -> Original:
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
    if path.suffix in (".pt", ".pth", ".ckpt", ".pkl", ".safetensors"):
        from ganedge.export import foreign

        return foreign.of_pickle(path, foreign.Foreign(**{**said, "kwargs": foreign.read_kwargs(said["kwargs"])}))
    from ganedge.export.from_torch import of_run

    return of_run(path, which, said["norm"], said["size"], at)


def _write(
    source: Path,
    original: Original,
    proven: Proven,
    forms: list[str],
    output: Path | None,
    deploy: dict[str, Any],
    backend: Literal["onnxruntime", "tensorrt"],
    instances: int,
) -> None:
    """Write every format and say what was proven."""
    from ganedge.export.artifact import default_path
    from ganedge.export.to_tensorrt import Settings
    from ganedge.runtime.files import write_whole

    settings = Settings.read(**deploy)
    paths = _paths(source, original, proven.manifest.precision, forms, output)
    _say(proven)
    precision = proven.manifest.precision
    if "onnx" in paths:
        write_whole(paths["onnx"], proven.data)
        terminal.note(f"{paths['onnx']}: {paths['onnx'].stat().st_size / 1e6:.1f} MB, {precision}")
    if "trt" in paths:
        from ganedge.export.to_tensorrt import write_engine

        written = write_engine(paths["onnx"], paths["trt"], proven, settings, terminal.note)
        terminal.note(f"{written}: {written.stat().st_size / 1e6:.1f} MB, {precision}")
    if "triton" in paths:
        from ganedge.export.to_triton import write_repository
        from ganedge.runtime.manifest import read_bytes

        model = paths["trt"].read_bytes() if backend == "tensorrt" else proven.data
        name = default_path(original, precision, "x").stem
        sealed, _ = read_bytes(proven.data, str(source))
        place = write_repository(paths["triton"], name, model, sealed, backend, settings.batch, instances)
        terminal.note(f"{place}: tritonserver --model-repository {paths['triton']}")


def _say(proven: Proven) -> None:
    """What a person should know, and the figures."""
    for text in proven.notes:
        terminal.note(text)
    for proof in proven.manifest.parity:
        terminal.note(str(proof))
    if proven.manifest.unproven:
        terminal.note(f"parity: not run ({proven.manifest.unproven})")


def _paths(
    source: Path, original: Original, precision: Precision, forms: list[str], output: Path | None
) -> dict[str, Path]:
    """Where each format goes; an engine's .onnx lies beside it, whether it was asked for or not."""
    from ganedge.export.artifact import default_path
    from ganedge.runtime.errors import UsageError

    if output is not None and len(forms) > 1 and output.suffix in (".onnx", ".engine"):
        raise UsageError(f"-o {output}: several formats go into a folder")
    paths = {}
    for form in forms:
        path = default_path(original, precision, {"onnx": "onnx", "trt": "engine", "triton": "triton"}[form])
        if output is not None:
            path = output / path.name if len(forms) > 1 else output
        paths[form] = path
    if "trt" in paths:
        if paths["trt"].suffix == ".onnx":
            raise UsageError(f"-o {output}: an engine is no .onnx; give it another ending, such as .engine")
        paths.setdefault("onnx", paths["trt"].with_suffix(".onnx"))
    if "onnx" in paths and source.suffix == ".onnx" and source.resolve() == paths["onnx"].resolve():
        raise UsageError(f"{paths['onnx']} is the source itself: name another file with -o")
    return paths


def _forms(text: str) -> list[str]:
    from ganedge.runtime.errors import UsageError

    forms = text.split(",")
    for form in forms:
        if form not in ("onnx", "trt", "triton"):
            raise UsageError(f"--format {text}: choose onnx, trt, triton, or several with commas")
    return forms


def _calibrate(text: str | None) -> Path | int | None:
    from ganedge.runtime.errors import UsageError

    if text is None or not text.isdigit():
        return None if text is None else Path(text)
    if not 1 <= int(text) <= 4096:
        raise UsageError(f"--calibrate {text}: give 1 to 4096 inputs, or a folder of pictures")
    return int(text)


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
