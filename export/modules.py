"""Import and make torch modules that were not trained here, with their weights, inputs and outputs.

    model = of_source("nets.py:Generator", SourceSpec(weights=Path("netG.pth"), input="100x1x1", kind="latent"))

Naming a module is trusting it: its file is executed.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganedge.export import architectures
from ganedge.export.arguments import SECONDS, Fit, all_arguments, fitting_arguments, stored_arguments
from ganedge.export.arrange import arrange, examples, member, returns_each, tensors_in, with_constants
from ganedge.export.bounds import with_bounded_range
from ganedge.export.checkpoints import (
    LoadedModule,
    Part,
    load_part,
    part_note,
    parts_of,
    ranked,
    read_checkpoint,
)
from ganedge.export.from_torch import of_network, try_run, unwrap
from ganedge.export.frozen import freeze
from ganedge.export.import_source import Imported, lookup, make
from ganedge.export.infer_input import infer_input, run, runnable, tried_shapes
from ganedge.export.inner_noise import keep_noise
from ganedge.export.outputs import ALL, Choice, choose, describe, hindrance, keepable, note_of, output_index
from ganedge.export.sizes import dimensions, flat_image, main_result, read_size
from ganedge.export.source import SourceSpec
from ganedge.export.source_model import SourceModel
from ganedge.runtime.errors import ArtifactError, GanEdgeError, UsageError
from ganedge.runtime.manifest import MAX_CHANNELS, Interface, Layout, Port, Source, program

UNKNOWN = (
    "the input of this generator is not known: give --kind latent|image and --input, such as 100, 100x1x1, 3x256x256 "
    "or 3xHxW"
)


def open_module(source: str, spec: SourceSpec) -> LoadedModule:
    """Open a torch module: `file.py:name` or `package.module:name` of a class, a function or an instance.

    Raises:
        UsageError: no such file or name, or arguments that do not fit it.
        ArtifactError: weights that cannot be read or do not fit.
        GanEdgeError: its code raises an error.
    """
    imported = lookup(source)
    loaded = _loaded(source, spec, imported)
    return replace(loaded, notes=(*imported.notes, *loaded.notes))


def _loaded(source: str, spec: SourceSpec, imported: Imported) -> LoadedModule:
    """Make the module, and load its weights where the specification states them."""
    factory = imported.value
    if spec.weights is None:
        if spec.part is not None:
            raise UsageError(f"--part {spec.part} is a part of a checkpoint: give that with --weights")
        stem, made = source.rpartition(":")[2], make(source, factory, spec.kwargs)
        return LoadedModule(made, spec, source, "", stem=stem, arguments=all_arguments(factory, spec.kwargs))
    content, digest = read_checkpoint(spec.weights, spec.trust, imported.module)
    if isinstance(content, nn.Module) and isinstance(factory, type) and type(content) is factory:
        return LoadedModule(content, spec, source, digest, (), spec.weights.stem)  # It knows its own arguments.
    parts = list(parts_of(content))
    stored = stored_arguments(content)

    # Make it as it was stated, else with the arguments that its weights imply.
    network, failed = _try_make(source, factory, spec.kwargs)
    if network is not None:
        try:
            match = load_part(network, parts, spec.weights, spec.part)
            notes, arguments = match.notes(spec.weights), all_arguments(factory, spec.kwargs)
            return LoadedModule(network, spec, source, digest, notes, spec.weights.stem, arguments=arguments)
        except ArtifactError as error:
            failed = error
    assert failed is not None
    if network is None and not isinstance(failed.__cause__, TypeError):
        raise failed
    fit = _implied(factory, spec, parts, stored)
    if fit is None:
        raise failed
    shown = f"--kwargs '{json.dumps(fit.arguments, default=str)}'"
    if fit.undetermined:
        raise GanEdgeError(
            f"{failed}; the weights fit with {shown}, where they do not tell {', '.join(fit.undetermined)}"
        )
    if any(fit.arguments.get(name) != value for name, value in (spec.kwargs or {}).items()):
        raise type(failed)(f"{failed}; they fit with {shown}") from failed
    network = make(source, factory, fit.arguments)
    match = load_part(network, parts, spec.weights, spec.part)
    notes = (*match.notes(spec.weights), f"made with {shown}, as its weights imply")
    arguments = all_arguments(factory, fit.arguments)
    return LoadedModule(network, spec, source, digest, notes, spec.weights.stem, arguments=arguments)


def _try_make(
    source: str, factory: Any, kwargs: Mapping[str, Any] | None
) -> tuple[nn.Module | None, GanEdgeError | None]:
    """Make a module, or return the error."""
    try:
        return make(source, factory, kwargs), None
    except UsageError:
        raise
    except GanEdgeError as error:
        return None, error


def _implied(factory: Any, spec: SourceSpec, parts: Sequence[Part], stored: Mapping[str, Any]) -> Fit | None:
    """Find constructor arguments at which a part of a checkpoint fits, the part with the best name first."""
    assert spec.weights is not None
    end = time.monotonic() + SECONDS
    for _, weights in ranked(parts, spec.weights, spec.part):
        if fit := fitting_arguments(factory, spec.kwargs or {}, weights, stored, end - time.monotonic()):
            return fit
    return None


def open_pickle(path: Path, spec: SourceSpec) -> LoadedModule:
    """Open a whole module that torch.save wrote; reading it executes code, so it must be trusted.

    Raises:
        UsageError: the file holds weights alone, which need their module.
        ArtifactError: not trusted, not readable, or its classes cannot be imported from here.
    """
    sys.path.insert(0, str(Path.cwd()))
    sys.path.insert(0, str(path.resolve().parent))  # The classes of a pickled module are imported by name.
    content, digest = read_checkpoint(path, spec.trust)
    notes: tuple[str, ...] = ()
    if spec.part is not None and isinstance(content, nn.Module):
        raise UsageError(f"--part {spec.part}: {path} is one whole module; leave it out")
    if isinstance(content, Mapping):
        modules = {str(key): value for key, value in content.items() if isinstance(value, nn.Module)}
        if spec.part is not None and modules:
            if spec.part not in modules:
                raise UsageError(f"--part {spec.part}: {path} has no such module, but {', '.join(modules)}")
            modules = {spec.part: modules[spec.part]}
        if len(modules) > 1:
            raise UsageError(f"{path} holds {len(modules)} modules: choose one with --part {'|'.join(modules)}")
        for name, module in modules.items():
            content, notes = module, part_note(path, name)
    if not isinstance(content, nn.Module):
        raise UsageError(f"{path} is weights alone: give their module, FILE.py:NAME --weights {path}, or --arch auto")
    return LoadedModule(content, spec, path.name, digest, notes, path.stem)


def open_network(source: str, spec: SourceSpec, plain: bool = False) -> LoadedModule:
    """Open what `of_source` would export, as a network that is ready to run.

    Args:
        source: `FILE.py:NAME`, `module:NAME`, a pickled module, or with `spec.arch` a checkpoint.
        spec: What the source does not state itself.
        plain: It is known to return one tensor and to take class numbers, so that this need not be tried.

    Returns:
        Its network is FP32, on the CPU, in evaluation mode and unwrapped; it returns one tensor
        and takes class numbers.
    """
    loaded = _open(source, spec)
    loaded = _prepared(loaded)
    if not plain:
        loaded = _adapt_io(loaded)
    return replace(loaded, network=_reshaped(loaded.network, loaded.spec))


def of_source(source: str, spec: SourceSpec) -> SourceModel:
    """Open a module, a pickled module or a checkpoint of a known architecture, whatever the source is.

    Raises:
        UsageError: no such file or name, or settings that do not fit it.
        ArtifactError: weights that cannot be read or do not fit.
        GanEdgeError: it cannot run or be exported.
    """
    return finish(_open(source, spec))


def _open(source: str, spec: SourceSpec) -> LoadedModule:
    path = Path(source)
    if spec.arch is not None:
        return architectures.open_checkpoint(path, spec)
    return open_module(source, spec) if ":" in source and not path.exists() else open_pickle(path, spec)


def _prepared(loaded: LoadedModule) -> LoadedModule:
    """Take a network out of its wrappers, to the CPU and to FP32, with the constant arguments of its forward."""
    network, notes = with_constants(unwrap(loaded.network).float().cpu(), loaded.spec.forward_kwargs)
    return replace(loaded, network=network, notes=(*loaded.notes, *notes))


def finish(loaded: LoadedModule) -> SourceModel:
    """Adapt a module's inputs and outputs, and export its graph."""
    loaded = _adapt_io(_prepared(loaded))
    interface = _interface(loaded.network, loaded.spec)
    spec, name = loaded.spec, loaded.name
    kept = loaded.network.choices if isinstance(loaded.network, KeptOutputs) else ()
    network = _reshaped(loaded.network, spec)
    side = _proof_side(spec, loaded.trained) if interface.inputs[0].role == "image" else None
    source = Source(
        variant=Path(name.rpartition(":")[0]).name + ":" + name.rpartition(":")[2] if ":" in name else name,
        generator=spec.part or "generator",
        config={} if side is None else {"size": side},
        weights=loaded.digest,
        program=program(),
    )
    stem = loaded.stem if spec.part is None else f"{loaded.stem}-{re.sub('[^0-9A-Za-z_-]+', '-', spec.part)}"
    model = of_network(network, interface, source, spec.norm_mode, Path(), stem)
    pairs = zip(model.interface.extras, kept, strict=True)
    keeps = [note_of(port, choice.output.source) for port, choice in pairs]
    return with_bounded_range(replace(model, notes=(*loaded.notes, *keeps, *model.notes)), spec)


def _proof_side(spec: SourceSpec, trained: int | None) -> int | None:
    """Return the side of the images it is meant for, pixels: of --input, --size or the architecture's training.

    Proof and calibration take it where heights and widths are dynamic: a deep network differs less on small images.
    """
    assert spec.input is not None
    sizes = [size for size in dimensions(spec.input, "--input")[1:] if isinstance(size, int)]
    if spec.size is not None and spec.size != "dynamic":
        parts = spec.size.split(",")
        sizes = list(read_size(parts[len(parts) // 2]))
    return max(sizes) if sizes else trained


def _reshaped(network: nn.Module, spec: SourceSpec) -> nn.Module:
    """Give its output the shape of --output-shape, where one was given."""
    return network if spec.output_shape is None else Reshaped(network, dimensions(spec.output_shape, "--output-shape"))


def _adapt_io(loaded: LoadedModule) -> LoadedModule:
    """Make a network take class numbers and return one tensor, with constant weights; notes say what changed."""
    network, notes = loaded.network.eval(), loaded.notes
    spec, reason = loaded.spec, ""
    if not (spec.input or spec.kind):
        spec, reason = infer_input(network, spec, loaded.arguments)
    if reason:
        raise UsageError(f"{UNKNOWN} ({reason})")
    if spec is not loaded.spec:
        notes = (*notes, f"input: {spec.kind} {spec.input}, read from its first layer; --kind and --input state others")
    if spec.input is None or spec.kind is None:
        return loaded
    if spec.mean or spec.std:
        network = Normalised(network, spec.mean, spec.std)
    first, result = _try(network, spec)
    tried = network
    adapted: tuple[str, ...] = ()
    if spec.further or not returns_each(result, len(first)):
        network, adapted = runnable(network, first)
    network, spec, arranged = arrange(network, spec, first)
    further = examples(spec.further, first, len(spec.classes))

    # Run it, to see what it draws, what it returns, and whether it changes its own weights.
    network, noise_notes = keep_noise(network, (first, *further), spec.noise_seed)
    network, frozen_notes = freeze(network, (first, *further))
    if network is not tried:  # Otherwise it is the same as before, and large networks take seconds for each call.
        result = run(network, first, *further)
    notes = (*notes, *adapted, *arranged, *noise_notes)

    # Select one of several results, and recognise flat images.
    if not isinstance(result, Tensor) and result is not None:
        network, result, note = _select_result(network, result, spec, (first, *further))
        notes = (*notes, *note)
    elif spec.result not in (None, "0"):
        raise UsageError(f"--result {spec.result}: this generator returns one tensor; leave it out")
    elif spec.keep_outputs:
        raise UsageError("--keep-outputs: this generator returns one tensor, its result; leave it out")
    shape = _image_of(result) if spec.output_shape is None else None
    if shape is not None:
        spec = replace(spec, output_shape=shape)
        notes = (*notes, f"its flat output is taken for an image of {shape}; --output-shape states another")
    return replace(loaded, network=network, spec=spec, notes=(*notes, *frozen_notes))


def _select_result(
    network: nn.Module, result: Any, spec: SourceSpec, inputs: tuple[Tensor, ...]
) -> tuple[nn.Module, Any, tuple[str, ...]]:
    """Take the tensor that --result names, else the one that is most likely the picture, and those to keep beside it.

    Returns:
        The network that returns them, the result of the trial run, and notes for the user.
    """
    tensors = dict(tensors_in(result))
    if not tensors:
        return network, result, ()
    names = [".".join(map(str, path)) for path in tensors]
    notes: tuple[str, ...] = ()
    if spec.result is None:
        index = main_result([tuple(tensor.shape) for tensor in tensors.values()])
        shown = ", ".join(names[:8])
        others = "" if spec.keep_outputs else ", --keep-outputs keeps more of them"
        note = f"it returns {len(names)} tensors ({shown}): {names[index]} is taken; --result takes another{others}"
        notes = (note,) if len(names) > 1 else ()
    else:
        stated = output_index(spec.result, names)
        if stated is None:
            raise UsageError(f"--result {spec.result}: this generator returns {', '.join(names)}")
        index = stated
    paths = list(tensors)
    selected = SelectedOutput(network, paths[index])
    if not spec.keep_outputs:
        return selected, tensors[paths[index]], notes
    kept, kept_notes = _keep(selected, tensors, index, spec, inputs)
    return kept, tensors[paths[index]], (*notes, *kept_notes)


def _keep(
    selected: SelectedOutput,
    tensors: Mapping[tuple[int | str, ...], Tensor],
    result: int,
    spec: SourceSpec,
    inputs: tuple[Tensor, ...],
) -> tuple[nn.Module, tuple[str, ...]]:
    """Keep outputs beside the result, those that have a value for each item."""
    single = dict(tensors_in(run(selected.network, *(tensor[:1] for tensor in inputs))))
    paths = list(tensors)

    def reason(choice: Choice) -> str:
        path = paths[choice.index]
        both = [given[path] for given in (tensors, single) if path in given]
        shapes, counts = [tuple(tensor.shape) for tensor in both], (len(inputs[0]), 1)[: len(both)]
        return hindrance(shapes, counts, not both[0].is_complex())

    taken = {"input", "latent", "image", "points", *(item.name for item in spec.further)}
    names = [".".join(map(str, path)) for path in paths]
    choices, notes = keepable(choose(spec.keep_outputs, names, result, taken), reason, spec.keep_outputs == (ALL,))
    if not choices:
        return selected, (*notes, "nothing is kept beside the result")
    return KeptOutputs(selected, choices, [paths[choice.index] for choice in choices]), notes


def _try(network: nn.Module, spec: SourceSpec) -> tuple[Tensor, Any]:
    """Return a batch of two that a network takes, small where it may be, and its result; None where it takes none."""
    first, result = torch.empty(0), None
    for shape in tried_shapes(spec):
        first = torch.zeros(2, *shape)
        result = run(network, first, *examples(spec.further, first, len(spec.classes)))
        if result is not None:
            break
    return first, result


def _image_of(result: Any) -> str | None:
    """Return the square image that a flat output of 784 or 3072 values is: 1x28x28, 3x32x32."""
    return flat_image(result.shape) if isinstance(result, Tensor) else None


class Normalised(nn.Module):
    """A network whose input images are normalised by a mean and a standard deviation for each channel."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([mean or [0.0]]).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([std or [1.0]]).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        """Normalise, then compute."""
        first = (inputs[0] - self.get_buffer("mean")) / self.get_buffer("std")
        return self.network(first, *inputs[1:])


class SelectedOutput(nn.Module):
    """One of several results of a network."""

    def __init__(self, network: nn.Module, path: Sequence[int | str]) -> None:
        super().__init__()
        self.network, self.path = network, tuple(path)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute, then select."""
        return member(self.network(*inputs), self.path)


class KeptOutputs(nn.Module):
    """The result of a network and outputs that are kept beside it, all of them floats."""

    def __init__(
        self, selected: SelectedOutput, choices: Sequence[Choice], paths: Sequence[Sequence[int | str]]
    ) -> None:
        super().__init__()
        self.network, self.path = selected.network, selected.path
        self.choices, self.paths = tuple(choices), tuple(map(tuple, paths))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute, then select; integers and truth values become floats."""
        result = self.network(*inputs)
        extras = [member(result, path) for path in self.paths]
        usual = torch.get_default_dtype()
        return member(result, self.path), *(tensor.to(usual) if _is_other(tensor) else tensor for tensor in extras)


def _is_other(tensor: Tensor) -> bool:
    """Whether a tensor is not of a type that the artifact's floats come from."""
    return tensor.dtype not in (torch.float32, torch.float64)


class Reshaped(nn.Module):
    """A network whose output is reshaped to an image."""

    def __init__(self, network: nn.Module, shape: tuple[int | str, ...]) -> None:
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, *inputs: Tensor) -> Any:
        """Compute, then reshape the result."""
        output, sizes = self.network(*inputs), (int(size) for size in self.shape)
        return (
            output.reshape(-1, *sizes) if isinstance(output, Tensor) else (output[0].reshape(-1, *sizes), *output[1:])
        )


def _interface(network: nn.Module, spec: SourceSpec) -> Interface:
    """Describe what the network takes and returns, from the specification and one run."""
    if spec.input is None or spec.kind is None:
        raise UsageError(UNKNOWN)
    shape = dimensions(spec.input, "--input")
    if spec.kind == "image":
        if len(shape) != 3:
            raise UsageError(f"--input {spec.input}: an image is channels × height × width, such as 3x256x256")
        height, width = shape[1:]
        if isinstance(shape[0], int) and shape[0] > MAX_CHANNELS:
            raise UsageError(
                f"--input {spec.input}: an image has 1 to {MAX_CHANNELS} channels; maps of more, such as a channel for "
                "each class, cannot be exported"
            )
        if spec.size is not None:
            dynamic = spec.size == "dynamic" or "," in spec.size
            height, width = ("height", "width") if dynamic else read_size(spec.size)
        first = Port("input", "image", "float32", ("batch", shape[0], height, width), "NCHW", spec.input_range)
    else:
        if any(isinstance(size, str) for size in shape) or len(shape) > 3:
            raise UsageError(f"--input {spec.input}: a latent is one fixed size such as 100, 100x1x1 or 18x512")
        layout: Layout = "NC" if len(shape) == 1 else "NLC" if len(shape) == 2 else "NCHW"
        first = Port("latent", "latent", "float32", ("batch", *shape), layout)
    ports = (first, *(item.port(spec.input_range) for item in spec.further))
    output = _output(network, ports, spec)
    extras = _extras(network, output, spec) if isinstance(network, KeptOutputs) else ()
    noise = spec.noise if spec.kind == "latent" else None
    return Interface(f"{spec.kind}-to-{output.role}", ports, (output, *extras), noise, spec.classes)  # type: ignore[arg-type]


def _extras(network: KeptOutputs, result: Port, spec: SourceSpec) -> tuple[Port, ...]:
    """Describe the outputs beside the result, by running the network once on random inputs."""
    first = _try(network, spec)[0]
    random = torch.Generator().manual_seed(0)
    low, high = spec.input_range
    drawn = torch.randn(first.shape, generator=random)
    if spec.kind == "image":
        drawn = low + (high - low) * torch.rand(first.shape, generator=random)
    outputs = run(network, drawn, *examples(spec.further, first, len(spec.classes)))
    if outputs is None:
        raise UsageError("--keep-outputs: this generator does not run on random inputs; leave it out")
    return tuple(
        describe(choice.output, tensor.numpy(), ("batch", *tensor.shape[1:]), result)
        for choice, tensor in zip(network.choices, outputs[1:], strict=True)
    )


def _output(network: nn.Module, ports: tuple[Port, ...], spec: SourceSpec) -> Port:
    """Describe what comes out, by running it once."""
    dynamic = ports[0].role == "image" and isinstance(ports[0].shape[-1], str)
    first, result = _try(network.eval(), spec)
    if isinstance(network, KeptOutputs) and result is not None:
        result = result[0]
    if not isinstance(result, Tensor):
        more = examples(spec.further, first, len(spec.classes))
        result = torch.empty(try_run(network, (first[:1], *(tensor[:1] for tensor in more))))
    returned = tuple(result.shape[1:])
    shape: tuple[int | str, ...] = returned
    if spec.output_shape is not None:
        shape = _stated_shape(spec.output_shape, returned)
    elif dynamic and len(returned) == 3:
        shape = (returned[0], *ports[0].shape[2:])
    if len(shape) == 3:
        if not isinstance(shape[0], int) or not 1 <= shape[0] <= MAX_CHANNELS:
            raise UsageError(f"this generator returns {shape[0]} channels: an image has 1 to {MAX_CHANNELS}")
        return Port("image", "image", "float32", ("batch", *shape), "NCHW", spec.result_range)
    if len(shape) == 1 and shape[0] == 2:
        return Port("points", "points", "float32", ("batch", 2), "NC")
    shown = "×".join(map(str, shape))
    raise UsageError(
        f"this generator returns {shown} for each input, not an image: give its shape, such as --output-shape 1x28x28"
    )


def _stated_shape(text: str, returned: tuple[int, ...]) -> tuple[int | str, ...]:
    """Read --output-shape, and check it against what the network returns for one input."""
    shape = dimensions(text, "--output-shape")
    shown = "×".join(map(str, returned))
    if any(isinstance(size, str) for size in shape):
        raise UsageError(f"--output-shape {text}: give numbers, such as 1x28x28")
    values, stated = torch.Size(returned).numel(), torch.Size(int(size) for size in shape).numel()
    if values != stated:
        raise UsageError(f"--output-shape {text}: this generator returns {shown} = {values} values, not {stated}")
    if len(returned) == 3 and tuple(shape) != returned:
        raise UsageError(f"--output-shape {text}: this generator returns images of {shown} already; leave it out")
    return shape
