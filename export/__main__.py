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
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ganedge.runtime.cli import terminal

if TYPE_CHECKING:
    from ganedge.export.artifact import ExportSpec, VerifiedArtifact
    from ganedge.export.source_model import SourceModel
    from ganedge.export.to_tensorrt import Settings


SOURCE, PROOF, DEPLOY = "Source", "Proof", "TensorRT and Triton"
"""Groups of options in the help; what stands outside them says what to write."""


def build() -> typer.Typer:
    """Make the command."""
    app = terminal.app("Turn a generator into an artifact that is proven to be the same generator.")

    @app.command()
    def export(
        context: typer.Context,
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
        bf16: Annotated[
            bool,
            typer.Option("--bf16", help="bf16 weights and arithmetic, FP32 inputs and outputs: OpenVINO and TensorRT."),
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
        part: Annotated[
            str | None,
            typer.Option(help="Which generator of a checkpoint that holds several: genA2B.", rich_help_panel=SOURCE),
        ] = None,
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
            str | None,
            typer.Option(
                help="MIN,OPT,MAX batch of a TensorRT engine; 1,1,16, and 1,1,1 of pictures, otherwise.",
                rich_help_panel=DEPLOY,
            ),
        ] = None,
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
                "--portable",
                help="An engine that newer versions and GPUs from Ampere on run too; not of RTX.",
                rich_help_panel=DEPLOY,
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
        triton_name: Annotated[
            str | None,
            typer.Option(help="The model's name on the server; the file's otherwise.", rich_help_panel=DEPLOY),
        ] = None,
    ) -> None:
        """Export, prove on real inputs against the FP32 generator, and write the file only if that holds."""
        from ganedge.runtime.errors import UsageError

        if listed:
            from ganedge.export.abilities import table

            typer.echo("\n".join(table()))
            return
        if source is None:
            raise UsageError("nothing to export: give a run, an .onnx file or a module (gan-export --help)")
        forms = _forms(form)
        typed = terminal.typed(context)
        precisions = [name for name, asked in (("fp16", fp16), ("bf16", bf16), ("int8", int8)) if asked]
        _refuse_idle(typed, forms, precisions, size, calibrate, target_engine)
        from ganedge.export.artifact import ExportSpec, make
        from ganedge.export.sizes import read_range
        from ganedge.export.source import Said, open_source
        from ganedge.export.to_tensorrt import Settings
        from ganedge.export.to_triton import check_backend
        from ganedge.runtime.fidelity import read_gate

        check_backend(backend, forms, "bf16" if bf16 else "", triton_name, targets)
        settings = Settings.read(batch, size, workspace, level, portable, targets, timing_cache, dla)
        wanted = ExportSpec(
            precision="fp16" if fp16 else "bf16" if bf16 else "int8" if int8 else None,
            io=io,
            calibrate=_calibrate(calibrate),
            gate=None if tolerance is None else read_gate(tolerance),
            target=target_engine or ("trt" if "trt" in forms else None),
            side=None if settings.size is None else max(settings.size[1]),
        )
        said = Said(
            which=which,
            checkpoint=at,
            arch=arch,
            norm=norm,
            norm_mode=norm_mode,
            size=size,
            kind=kind,
            input=shape,
            output_shape=out_shape,
            range=read_range(value_range),
            noise=noise,
            classes=_classes(classes),
            kwargs=kwargs,
            weights=weights,
            part=part,
            trust=trust,
        )
        original = open_source(source, said, typed)
        _refuse_settled(typed, original, calibrate)
        # Before the proof, which may take minutes.
        paths = _paths(Path(source), original, wanted, forms, output, target_engine)
        name = triton_name or _name(original, wanted, target_engine)
        _write(Path(source), make(original, wanted), paths, settings, backend, instances, name)

    return app


ONLY_FOR = {
    "--batch": ("trt", "triton"),
    "--workspace": ("trt",),
    "--level": ("trt",),
    "--portable": ("trt",),
    "--target": ("trt",),
    "--timing-cache": ("trt",),
    "--dla": ("trt",),
    "--triton-backend": ("triton",),
    "--instances": ("triton",),
    "--triton-name": ("triton",),
}
"""Options that one format or another needs."""


def _refuse_idle(
    typed: frozenset[str],
    forms: list[str],
    precisions: list[str],
    size: str | None,
    calibrate: str | None,
    target: str | None,
) -> None:
    """Refuse options that would have no effect: who types one believes that it does something."""
    from ganedge.runtime.errors import UsageError

    if len(precisions) > 1:
        raise UsageError(f"--{' and --'.join(precisions)} exclude each other: export once for each")
    for option, needed in ONLY_FOR.items():
        if option in typed and not set(needed) & set(forms):
            raise UsageError(f"{option} is for --format {' or '.join(needed)}, and {','.join(forms)} was asked for")
    if size is not None and "," in size and "trt" not in forms:
        raise UsageError(f"--size {size}: several sizes are for --format trt; give one, or dynamic")
    if "--for" in typed and precisions != ["int8"]:
        raise UsageError("--for chooses the form of INT8: add --int8, or leave it out")
    if "trt" in forms and target == "ort":
        raise UsageError("--for ort: TensorRT does not read that form; export twice, or leave --for out")
    if calibrate is not None and calibrate.isdigit() and precisions not in (["fp16"], ["int8"]):
        raise UsageError(f"--calibrate {calibrate}: only FP16 and INT8 look at values; a folder serves every proof")


def _refuse_settled(typed: frozenset[str], original: SourceModel, calibrate: str | None) -> None:
    """Refuse options that the source itself leaves without effect."""
    from ganedge.runtime.errors import UsageError

    interface = original.interface
    if original.precision != "fp32" and ("--for" in typed or (calibrate is not None and calibrate.isdigit())):
        raise UsageError(f"this artifact is {original.precision} already: --for and --calibrate make one from FP32")
    if "--io" in typed and interface.output.role != "image":
        raise UsageError("--io: what comes out of this generator are points, which have no bytes")
    if "--batch" in typed and isinstance(interface.inputs[0].shape[0], int):
        raise UsageError(f"--batch: this model takes {interface.inputs[0].shape[0]} at a time and nothing else")


def _write(
    source: Path,
    proven: VerifiedArtifact,
    paths: dict[str, Path],
    settings: Settings,
    backend: Literal["onnxruntime", "tensorrt"],
    instances: int,
    name: str,
) -> None:
    """Write every format and say what was proven; `name` is the model's in a repository for Triton."""
    from dataclasses import replace

    from ganedge.export.artifact import write_artifact_file

    _say(proven)
    precision = proven.manifest.precision
    if "onnx" in paths and _is_source(source, paths["onnx"]):  # Which stays as it is: an engine names its digest.
        proven = replace(proven, data=source.read_bytes())
    elif "onnx" in paths:
        write_artifact_file(paths["onnx"], proven)
        terminal.note(f"{paths['onnx']}: {paths['onnx'].stat().st_size / 1e6:.1f} MB, {precision}")
    if "trt" in paths:
        from ganedge.export.to_tensorrt import write_engine

        written = write_engine(paths["onnx"], paths["trt"], proven, settings, terminal.note)
        terminal.note(f"{written}: {written.stat().st_size / 1e6:.1f} MB, {precision}")
    if "triton" in paths:
        from ganedge.export.to_tensorrt import BATCH
        from ganedge.export.to_triton import write_repository
        from ganedge.runtime.manifest import read_bytes

        model = paths["trt"].read_bytes() if backend == "tensorrt" else proven.data
        sealed, _ = read_bytes(proven.data, str(source))
        batch = settings.batches(sealed.interface) if backend == "tensorrt" else settings.batch or BATCH
        place = write_repository(paths["triton"], name, model, sealed, backend, batch, instances)
        terminal.note(f"{place}: tritonserver --model-repository {paths['triton']}")


def _name(original: SourceModel, wanted: ExportSpec, target: Literal["ort", "openvino", "trt"] | None) -> str:
    """What an artifact is called where nobody says: two forms of INT8 have two names."""
    from ganedge.export.artifact import default_path

    return default_path(original, wanted.precision or original.precision, "onnx", target).stem


def _say(proven: VerifiedArtifact) -> None:
    """What a person should know, and the figures."""
    for text in proven.notes:
        terminal.note(text)
    for proof in proven.manifest.parity:
        terminal.note(str(proof))
    if proven.manifest.unproven:
        terminal.note(f"parity: not run ({proven.manifest.unproven})")


def _paths(
    source: Path,
    original: SourceModel,
    wanted: ExportSpec,
    forms: list[str],
    output: Path | None,
    target: Literal["ort", "openvino", "trt"] | None,
) -> dict[str, Path]:
    """Where each format goes; an engine's .onnx lies beside it, whether it was asked for or not.

    An artifact that an engine is built from as it is may be that .onnx itself.
    """
    from ganedge.export.artifact import default_path, stays
    from ganedge.runtime.errors import UsageError

    precision = wanted.precision or original.precision
    if output is not None and len(forms) > 1 and output.suffix in (".onnx", ".engine"):
        raise UsageError(f"-o {output}: several formats go into a folder")
    paths = {}
    for form in forms:
        path = default_path(original, precision, {"onnx": "onnx", "trt": "engine", "triton": "triton"}[form], target)
        if output is not None:
            path = output / path.name if len(forms) > 1 else output
        paths[form] = path
    if "trt" in paths:
        if paths["trt"].suffix != ".engine":
            raise UsageError(f"-o {output}: gan-run knows an engine by its ending, .engine")
        paths.setdefault("onnx", paths["trt"].with_suffix(".onnx"))
    if "onnx" in paths and paths["onnx"].suffix == ".engine":
        raise UsageError(f"-o {output}: gan-run takes that ending for an engine of TensorRT; give .onnx")
    kept = "onnx" not in forms and stays(original, wanted)
    if "onnx" in paths and _is_source(source, paths["onnx"]) and not kept:
        raise UsageError(f"{paths['onnx']} is the source itself: name another file with -o")
    return paths


def _is_source(source: Path, path: Path) -> bool:
    return source.suffix == ".onnx" and source.resolve() == path.resolve()


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
