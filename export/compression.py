"""Compress a generator: open the teacher, choose the size, train through the one trainer, export, tabulate.

    run = compress("runs/monet", data="monet2photo/", out="runs/monet-small")

`gan-compress` is this on the command line (export/gan_compress.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ganedge.export import compression_report, student_size
from ganedge.export.artifact import default_path, make, write_artifact_file
from ganedge.export.from_torch import which_generator
from ganedge.export.important_channels import important_channels
from ganedge.export.open_source import open_source
from ganedge.export.source import SourceSpec, kind_of
from ganedge.export.source_model import SourceModel
from ganedge.export.spec import ExportSpec
from ganedge.export.student_size import SizeSpec, count_macs, count_weights, make_student
from ganedge.export.to_onnx import example_inputs
from ganedge.models.narrower import NarrowConfig, NarrowLatentConfig, NarrowPictureConfig
from ganedge.models.student import LatentConfig, PictureConfig
from ganedge.runtime.cli.options import option
from ganedge.runtime.errors import GanEdgeError, MissingExtra, UsageError
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Interface
from ganedge.train import loop, run_folder
from ganedge.train.builtin import LATENTS
from ganedge.train.distill import Lesson
from ganedge.train.layouts import unpaired
from ganedge.train.settings import Settings
from ganedge.train.trained_run import TrainedRun

GIB = 2**30
SIDE, CROP = 256, 128
"""Height and width of the teacher's pictures where nothing says, and of the squares that a student learns on."""
LEARNING: tuple[str, ...] = (
    *("epochs", "batch", "lr", "decay", "ema", "structure", "matching", "adversarial", "crop", "blocks"),
    *("sample_every", "sample_unit"),
)
"""Fields of a student's config that are options."""
TRAINING: tuple[str, ...] = (
    *("fraction", "memory", "workers", "fit", "steps", "max_minutes", "seed", "device", "devices", "precision"),
    *("weight_gradients", "memory_format"),
    *("compile", "checkpoint_every", "features", "judged", "tensorboard", "download", "resume"),
)
"""Settings of a training that are options."""
TRIED = 4
"""Real inputs that a teacher is tried on."""


@dataclass(frozen=True)
class CompressSpec:
    """What to compress with and into; each field is an option of its name."""

    out: Path
    """Run folder to write."""
    data: str | None = field(default=None, metadata=option(default="that of the teacher's run; latents need none"))
    """Pictures that go into the teacher, as gan-train takes them; for latents, real pictures to be judged beside."""
    student: Literal["edge", "same"] = "edge"
    """edge: networks that devices are fast at; same: those of the teacher, which is a run, narrower or with fewer
    blocks, started from its most important channels."""
    cache: float = field(default=2.0, metadata=option(minimum=0))
    """GiB on disk for what the teacher makes of the pictures; what does not fit is computed again each time."""

    def __post_init__(self) -> None:
        """Convert what is given as text."""
        object.__setattr__(self, "out", Path(self.out))
        object.__setattr__(self, "data", None if self.data is None else os.fspath(self.data))
        if self.student not in ("edge", "same"):
            raise UsageError(f"--student {self.student}: choose edge or same")


class OpenedTeacher:
    """A source as a student's teacher; batches of any size, also where its graph has a fixed one."""

    def __init__(self, model: SourceModel, digest: str) -> None:
        assert model.reference is not None
        self.interface: Interface = model.interface
        self.digest = digest
        self._reference = model.reference

    def __call__(self, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Compute the outputs; a fixed batch size is filled up with copies of the first items."""
        count, batch = len(inputs[0]), self.interface.inputs[0].shape[0]
        if isinstance(batch, int) and count % batch:
            chosen = np.arange(-(-count // batch) * batch) % count
            inputs = [array[chosen] for array in inputs]
        return self._reference(inputs)[:count]


def compress(
    source: str | os.PathLike[str], progress: Callable[[str], None] = lambda _: None, **settings: Any
) -> TrainedRun:
    """Teach a small generator what a large one does; `ganedge.export.compress` describes it."""
    path = os.fspath(source)
    is_first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    progress = progress if is_first else lambda _: None
    given = _sorted_settings(settings)
    about, size = SourceSpec(**given["source"]), SizeSpec(**given["size"])
    spec = CompressSpec(**given["compress"])
    if size.target_ms is not None and given["training"].get("devices", 1) > 1:
        raise UsageError("--target-ms measures in each process: find the width on one device, then give --width")

    # Open the teacher, and refuse it or the data before anything that takes time.
    if about.keep_outputs:
        raise UsageError("--keep-outputs: a student learns the result alone; leave it out")
    model = _result_alone(open_source(path, about, given["source"]))
    teacher = _teacher(path, model)
    for line in model.notes:
        progress(line)
    chosen = _layout(path, about, spec, teacher.interface)
    training = Settings(out=spec.out, data=chosen["data"], **given["training"])
    if not training.resume:
        run_folder.check_free(training.out)
    config = _config(path, model, teacher, chosen, given["learning"])
    if spec.student == "same":
        config = _narrow(path, about, config, given["learning"])

    # Choose the size; a run that goes on has one.
    config = _sized(config, size, given, training, progress)
    if isinstance(config, NarrowConfig) and 0 < config.teacher_macs <= config.macs:
        raise UsageError(f"--width {config.width}: this student is as large as its teacher; give a smaller one")
    progress(_plan(config))

    # Train. What Ctrl-C leaves is measured and exported too.
    keys = (config.source_key, config.real_key) if isinstance(config, PictureConfig) else ("", "")
    start = None if training.resume else _start(path, about, model, config, progress)
    lesson = Lesson(teacher, type(make_student(config)), round(spec.cache * GIB), *keys, start=start)
    interrupted: loop.Interrupted | None = None
    try:
        explicit = (*given["training"], "data", "out")
        loop.train(lesson.variant, asdict(config), training, explicit, lesson.prepare)
    except loop.Interrupted as error:
        interrupted = error
        progress(str(error))
    if is_first:
        _conclude(spec.out, model, teacher, lesson, size.threads, training, progress)
    if interrupted is not None:
        raise interrupted
    return TrainedRun(spec.out)


def _sorted_settings(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings by what they belong to. Raises UsageError for an unknown one."""
    import difflib

    groups = {
        "source": [item.name for item in fields(SourceSpec)],
        "size": [item.name for item in fields(SizeSpec)],
        "compress": [item.name for item in fields(CompressSpec)],
        "learning": list(LEARNING),
        "training": list(TRAINING),
    }
    known = [name for names in groups.values() for name in names]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "gan-compress --help lists all"
            raise UsageError(f"compress has no setting {name}: {hint}")
    if "out" not in settings:
        raise UsageError("no out: give the run folder to write")
    return {group: {name: settings[name] for name in names if name in settings} for group, names in groups.items()}


def _result_alone(model: SourceModel) -> SourceModel:
    """The source without the outputs that an artifact has beside its result."""
    return replace(model, interface=replace(model.interface, outputs=model.interface.outputs[:1]), outputs=None)


def _teacher(path: str, model: SourceModel) -> OpenedTeacher:
    """The source as a teacher, after trying it on a few real inputs.

    Raises:
        UsageError: its inputs or outputs are of a kind that a student does not have.
        GanEdgeError: it gives NaN or infinite values.
        MissingExtra: it is an .onnx file, and no engine is installed.
    """
    interface = model.interface
    first, output = interface.inputs[0], interface.output
    roles = [port.role for port in interface.inputs]
    if roles not in (["image"], ["latent"], ["latent", "label"]):
        taken = ", ".join(f"{port.name} ({port.role})" for port in interface.inputs)
        raise UsageError(f"{path} takes {taken}: a student takes one picture, or a latent and perhaps a label")
    if first.layout == "NLC" or any(isinstance(size, str) for size in output.shape[1:] if first.role == "latent"):
        raise UsageError(f"{path} draws pictures of several sizes or takes a latent for each layer: no student does")
    if model.reference is None:
        raise MissingExtra("onnxruntime", "cpu", f"a teacher that is an .onnx file ({path})")
    digest = model.source.weights or hashlib.sha256(model.model.SerializeToString()).hexdigest()
    teacher = OpenedTeacher(model, digest)
    side = _side(model)
    teacher(real_inputs(interface, TRIED, side=(side, side)))  # It raises for NaN itself.
    return teacher


def _side(model: SourceModel) -> int:
    """Height and width of the pictures that a teacher sees."""
    port = model.interface.inputs[0]
    if port.role != "image":
        return 0
    height, width = port.sides
    if isinstance(height, int) and isinstance(width, int):
        if height != width:
            raise UsageError(
                f"this teacher takes pictures of {width} × {height} only, and training pictures are square"
            )
        return height
    side = model.proof_size or model.source.size or SIDE
    return -(-side // port.multiple) * port.multiple


def _layout(path: str, about: SourceSpec, spec: CompressSpec, interface: Interface) -> dict[str, Any]:
    """Where the data are, how they lie, and under which keys a batch holds inputs and real outputs.

    Raises:
        UsageError: no data, and a teacher that needs some.
    """
    run = run_folder.read(Path(path)) if kind_of(path, about.arch) == "a run" else None
    if interface.noise is not None:
        return {"data": LATENTS if spec.data is None else spec.data}
    recorded = None if run is None else run.data.get("path") or run.settings.get("data")
    data = spec.data or recorded
    if data is None:
        raise UsageError("no data: give --data with a folder of the pictures that go into the teacher")
    layout: dict[str, Any] = {"data": str(data)}
    sources = getattr(run.variant, "sources", None) if run is not None else None
    if run is None or sources is None:
        return layout
    name = about.which or next(iter(sources))
    name = name if name in sources else f"generator-{name}"
    wants = run.variant.wants(run.config)
    try:  # Pictures without partners are inputs, whatever the teacher was trained on.
        if wants.kind == "unpaired":
            unpaired(Path(str(data)), str(data))
    except UsageError:
        return layout
    keys = {"source_key": sources[name], "real_key": run.variant.targets[name]}  # type: ignore[attr-defined]
    return {**layout, **keys, "data_kind": wants.kind, "reverse": wants.reverse}


def _config(
    path: str, model: SourceModel, teacher: OpenedTeacher, layout: Mapping[str, Any], learning: Mapping[str, Any]
) -> PictureConfig | LatentConfig:
    """The student's config but for its size. Raises UsageError for values that cannot be."""
    interface, side = model.interface, _side(model)
    item = real_inputs(interface, 1, side=(side, side))
    first, output = interface.inputs[0], interface.output
    low, high = output.range or (-1.0, 1.0)
    facts: dict[str, Any] = {
        "low": low,
        "high": high,
        "teacher": _name(path),
        "teacher_digest": teacher.digest,
        "teacher_macs": count_macs(model, item) or 0,
        "teacher_parameters": count_weights(model),
    }
    if first.role == "latent":
        if "crop" in learning:
            raise UsageError("--crop cuts squares out of pictures, and this teacher takes latents: leave it out")
        return LatentConfig(**facts, **_latent_facts(interface), has_data=layout["data"] != LATENTS, **learning)
    made = teacher(item)
    scale = (made.shape[2] if output.layout == "NCHW" else made.shape[1]) / side
    if scale not in (1, 2, 4, 8):
        raise UsageError(
            f"this teacher makes pictures {scale:g} times as large: a student makes them 1, 2, 4 or 8 times"
        )
    stride = next(each for each in (4, 2, 1) if each * scale <= 8 and side % each == 0 and (each < 4 or scale == 1))
    crop = min(CROP, side) // stride * stride
    keys = {name: value for name, value in layout.items() if name != "data"}
    shape: dict[str, Any] = {"size": side, "inputs": first.channels, "channels": output.channels, "scale": int(scale)}
    bounds = first.range or (-1.0, 1.0)
    learning = {"crop": crop, **learning}
    return PictureConfig(**facts, **keys, **shape, stride=stride, input_low=bounds[0], input_high=bounds[1], **learning)


def _narrow(
    path: str, about: SourceSpec, config: PictureConfig | LatentConfig, learning: Mapping[str, Any]
) -> NarrowPictureConfig | NarrowLatentConfig:
    """The config of a student with its teacher's networks, as large as these yet.

    Raises:
        UsageError: the teacher is no run, or has no width to choose.
    """
    kind = kind_of(path, about.arch)
    if kind != "a run":
        raise UsageError(f"--student same narrows the networks of a run, and {path} is {kind}: leave it out")
    run = run_folder.read(Path(path))
    own, interfaces = asdict(run.config), run.variant(run.config).generators()
    if "blocks" in learning and "blocks" not in own:
        raise UsageError(f"--blocks: {run.variant.name} has none; choose the size with --width or --macs")
    narrowed = {
        "variant": run.variant.name,
        "variant_config": json.dumps(own),
        "generator": which_generator(tuple(interfaces), about.which),
        "width": own.get("width", 1),
        "blocks": learning.get("blocks", own.get("blocks", 0)),
    }
    facts = {**asdict(config), **narrowed}
    if isinstance(config, LatentConfig):
        narrow: NarrowPictureConfig | NarrowLatentConfig = NarrowLatentConfig(**facts)
    else:
        multiple = interfaces[narrowed["generator"]].inputs[0].multiple
        crop = learning.get("crop", max(config.crop // multiple * multiple, multiple))
        narrow = NarrowPictureConfig(**{**facts, "stride": multiple, "crop": crop})
    narrow.narrowed  # noqa: B018 - it raises.
    return narrow


def _start(
    path: str,
    about: SourceSpec,
    model: SourceModel,
    config: PictureConfig | LatentConfig,
    progress: Callable[[str], None],
) -> dict[str, torch.Tensor] | None:
    """Weights to start from: the teacher's most important channels, for a student with its networks."""
    if not isinstance(config, NarrowConfig):
        return None
    network, _ = run_folder.read(Path(path)).generator(config.generator, about.checkpoint)
    side = _side(model)
    try:
        example = example_inputs(config.interface, 2, (side, side) if side else None)
        state = important_channels(network.eval(), config.network, example)
    except GanEdgeError as error:
        progress(f"the student starts from random weights: the teacher's channels cannot be followed, {error}")
        return None
    progress("the student starts from the teacher's most important channels")
    return state


def _latent_facts(interface: Interface) -> dict[str, Any]:
    """What a latent student takes and gives, from its teacher's interface."""
    first, output = interface.inputs[0], interface.output
    facts = {
        "latent": int(np.prod(first.item_shape)),
        "maps": first.layout == "NCHW",
        "latent_name": first.name,
        "output_name": output.name,
        "noise": interface.noise,
        "class_names": ",".join(name.replace(",", ";") for name in interface.classes),
    }
    if interface.classes:
        facts["label_name"] = interface.inputs[1].name
    if output.role != "image":
        return {**facts, "height": 0, "wide": 0, "channels": output.shape[1]}
    height, width = output.sides
    return {**facts, "height": height, "wide": width, "channels": output.channels}


def _sized(
    config: PictureConfig | LatentConfig,
    size: SizeSpec,
    given: Mapping[str, Mapping[str, Any]],
    training: Settings,
    progress: Callable[[str], None],
) -> PictureConfig | LatentConfig:
    """The config with its size: that of the run to go on with, else as it was asked for.

    Raises:
        UsageError: the run to go on with had another teacher, or the size cannot be.
    """
    begun = training.resume and (training.out / run_folder.CONFIG).exists()
    if not begun:
        interface = make_student(config).generators()["generator"]
        side = (config.size, config.size) if isinstance(config, PictureConfig) else None
        item = real_inputs(interface, 1, side=side)
        return student_size.choose(config, size, item, progress, "blocks" in given["learning"])
    before = run_folder.read(training.out).config
    if getattr(before, "teacher_digest", "") != config.teacher_digest:
        raise UsageError(f"{training.out} was compressed from another teacher: resume with that, or give another --out")
    kept = ("width", "blocks", "macs", "parameters", *(name for name in LEARNING if name not in given["learning"]))
    own = {item.name for item in fields(config)}
    return replace(config, **{name: getattr(before, name) for name in kept if name in own})


def _plan(config: PictureConfig | LatentConfig) -> str:
    """One line: what is going to be trained."""
    share = f" ({config.macs / config.teacher_macs:.1%})" if config.teacher_macs else ""
    return (
        f"student: width {config.width}, {config.blocks} blocks, {config.macs / 1e6:.4g} million multiply-accumulates"
        f"{share}, {config.parameters:,} weights of the teacher's {config.teacher_parameters:,}"
    )


def _conclude(
    out: Path,
    model: SourceModel,
    teacher: OpenedTeacher,
    lesson: Lesson,
    threads: int | None,
    training: Settings,
    progress: Callable[[str], None],
) -> None:
    """Measure the distance to the teacher, export the student, and show both side by side.

    Raises:
        GanEdgeError: the student cannot be exported.
    """
    from ganedge.export.from_torch import of_run

    network, _ = run_folder.read(out).generator()
    distance = compression_report.distances(network, out, teacher, lesson, training.features or "small")
    run_folder.write_compression(out, compression_report.facts(out, distance))
    student = of_run(out)
    artifact, path = make(student, ExportSpec(precision="fp32")), default_path(student, "fp32", "onnx")
    write_artifact_file(path, artifact)
    for line in artifact.lines():
        progress(line)
    for line in compression_report.table(out, path, model, student, distance, threads):
        progress(line)


def _name(path: str) -> str:
    """Return a teacher's name for files that are passed on: the last part of its path."""
    return Path(path).name[:200] or path[:200]


__all__ = ["LEARNING", "TRAINING", "CompressSpec", "GanEdgeError", "compress"]
