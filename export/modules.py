"""Import and make torch modules that were not trained here, with their weights, inputs and outputs.

    model = of_source("nets.py:Generator", SourceSpec(weights=Path("netG.pth"), input="100x1x1", kind="latent"))

Naming a module is trusting it: its file is executed.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganedge.export import architectures
from ganedge.export.checkpoints import SCRIPT, LoadedModule, load_part, part_note, parts_of, read_checkpoint
from ganedge.export.from_torch import of_network, unwrap
from ganedge.export.sizes import read_size
from ganedge.export.source import SourceSpec
from ganedge.export.source_model import SourceModel
from ganedge.runtime.errors import GanEdgeError, UsageError, one_line
from ganedge.runtime.manifest import Interface, Port, Source, program


def open_module(source: str, spec: SourceSpec) -> LoadedModule:
    """A torch module, given as `file.py:name` or `package.module:name`: a class, a function or an instance.

    Raises:
        UsageError: no such file or name, or arguments that do not fit it.
        ArtifactError: weights that cannot be read or do not fit.
        GanEdgeError: its code raises an error.
    """
    network = construct(source, spec.kwargs)
    if spec.weights is None:
        if spec.part is not None:
            raise UsageError(f"--part {spec.part} is a part of a checkpoint: give that with --weights")
        return LoadedModule(network, spec, source, "", stem=source.rpartition(":")[2])
    content, digest = read_checkpoint(spec.weights, spec.trust)
    taken = load_part(network, list(parts_of(content)), spec.weights, spec.part)
    return LoadedModule(network, spec, source, digest, part_note(spec.weights, taken), spec.weights.stem)


def open_pickle(path: Path, spec: SourceSpec) -> LoadedModule:
    """A whole module that torch.save wrote; reading it executes code, so it must be trusted.

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
    if isinstance(content, torch.jit.ScriptModule):
        raise UsageError(SCRIPT.format(path))
    if not isinstance(content, nn.Module):
        raise UsageError(f"{path} is weights alone: give their module, FILE.py:NAME --weights {path}, or --arch auto")
    return LoadedModule(content, spec, path.name, digest, notes, path.stem)


def open_network(source: str, spec: SourceSpec, plain: bool = False) -> LoadedModule:
    """What `of_source` would export, as a network that is ready to run.

    Args:
        source: `FILE.py:NAME`, `module:NAME`, a pickled module, or with `spec.arch` a checkpoint.
        spec: What the source does not state itself.
        plain: It is known to return one tensor and to take class numbers, so that this need not be tried.

    Returns:
        Its network is FP32, on the CPU, in evaluation mode and unwrapped; it returns one tensor
        and takes class numbers.
    """
    loaded = _open(source, spec)
    network, notes = unwrap(loaded.network).float().cpu(), loaded.notes
    if not plain:
        network, more = _adapt_io(network, loaded.spec)
        notes = (*notes, *more)
    return replace(loaded, network=_reshaped(network, loaded.spec), notes=notes)


def of_source(source: str, spec: SourceSpec) -> SourceModel:
    """A module, a pickled module or a checkpoint of a known architecture, by how the source looks.

    Raises:
        UsageError: no such file or name, or settings that do not fit it.
        ArtifactError: weights that cannot be read or do not fit.
        GanEdgeError: it cannot run or be exported.
    """
    return _finish(_open(source, spec))


def _open(source: str, spec: SourceSpec) -> LoadedModule:
    path = Path(source)
    if spec.arch is not None:
        return architectures.open_checkpoint(path, spec)
    return open_module(source, spec) if ":" in source and not path.exists() else open_pickle(path, spec)


def _finish(opened: LoadedModule) -> SourceModel:
    spec, name = opened.spec, opened.name
    network, notes = _adapt_io(unwrap(opened.network).float().cpu(), spec)
    interface = _interface(network, spec)
    network = _reshaped(network, spec)
    trained = _proof_side(spec, name) if interface.inputs[0].role == "image" else None
    source = Source(
        variant=Path(name.rpartition(":")[0]).name + ":" + name.rpartition(":")[2] if ":" in name else name,
        generator=spec.part or "generator",
        config={} if trained is None else {"size": trained},
        weights=opened.digest,
        program=program(),
    )
    stem = opened.stem if spec.part is None else f"{opened.stem}-{re.sub('[^0-9A-Za-z_-]+', '-', spec.part)}"
    made = of_network(network, interface, source, spec.norm_mode, Path(), stem)
    return replace(made, notes=(*opened.notes, *notes))


def _proof_side(spec: SourceSpec, name: str) -> int | None:
    """The side of the pictures it is meant for, pixels: of --input or --size, or what its architecture is trained on.

    Proof and calibration take it where heights and widths are dynamic: small pictures judge a deep network too kindly.
    """
    assert spec.input is not None
    sizes = [size for size in dimensions(spec.input, "--input")[1:] if isinstance(size, int)]
    if spec.size is not None and spec.size != "dynamic":
        parts = spec.size.split(",")
        sizes = list(read_size(parts[len(parts) // 2]))
    return max(sizes) if sizes else architectures.TRAINED.get(name)


def _reshaped(network: nn.Module, spec: SourceSpec) -> nn.Module:
    """Its output in the shape that was spec, where one was."""
    return network if spec.output_shape is None else Reshaped(network, dimensions(spec.output_shape, "--output-shape"))


def _adapt_io(network: nn.Module, spec: SourceSpec) -> tuple[nn.Module, tuple[str, ...]]:
    """With one tensor for a result and class numbers for labels, as every artifact has; and what was done for that."""
    if spec.input is None or spec.kind is None:
        return network, ()
    notes: tuple[str, ...] = ()
    sizes = [256 if isinstance(size, str) else size for size in dimensions(spec.input, "--input")]
    if spec.kind == "image" and spec.size is not None and spec.size != "dynamic" and "," not in spec.size:
        sizes[1:] = read_size(spec.size)
    first = torch.zeros(2, *sizes)
    network.eval()
    with torch.inference_mode():
        if spec.classes:
            label = torch.zeros(2, dtype=torch.int64)
            if _result(network, first, label) is None:
                vectors = OneHot(network, len(spec.classes))
                if _result(vectors, first, label) is not None:
                    network, notes = (
                        vectors,
                        ("it takes a vector with a one for the class: made from --classes inside",),
                    )
            result = _result(network, first, label)
        else:
            result = _result(network, first)
    if isinstance(result, (tuple, list, Mapping)):
        values = list(result.values()) if isinstance(result, Mapping) else list(result)
        tensors = [place for place, value in enumerate(values) if isinstance(value, Tensor)]
        if tensors:
            place = tensors[0]
            key = list(result)[place] if isinstance(result, Mapping) else place
            network = SelectedOutput(network, key)
            notes = (*notes, f"it gives {len(values)} results: the first tensor, [{key!r}], is taken")
    return network, notes


def _result(network: nn.Module, *inputs: Tensor) -> Any:
    """What the network gives, or None where it does not take such inputs: why not is said where it is needed."""
    try:
        return network(*inputs)
    except Exception:  # noqa: BLE001 - others' code may raise anything
        return None


class OneHot(nn.Module):
    """A network that takes a vector for each class, given class numbers."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("vectors", torch.eye(classes), persistent=False)

    def forward(self, first: Tensor, label: Tensor) -> Tensor:
        """Look the vectors up, then compute."""
        vectors = self.get_buffer("vectors")
        given: Tensor = self.network(first, vectors[label])
        return given


class SelectedOutput(nn.Module):
    """A network that gives several results, of which one is taken."""

    def __init__(self, network: nn.Module, key: int | str) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, first: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute, then take."""
        results = self.network(first) if label is None else self.network(first, label)
        taken: Tensor = results[self.key]
        return taken


class Reshaped(nn.Module):
    """A network whose output is given the shape of a picture."""

    def __init__(self, network: nn.Module, shape: tuple[int | str, ...]) -> None:
        super().__init__()
        self.network, self.shape = network, shape

    def forward(self, first: Tensor, label: Tensor | None = None) -> Tensor:
        """Compute, then reshape."""
        given: Tensor = self.network(first) if label is None else self.network(first, label)
        return given.reshape(-1, *(int(size) for size in self.shape))


def _interface(network: nn.Module, spec: SourceSpec) -> Interface:
    """What the network takes and gives, from what was said and one run."""
    if spec.input is None or spec.kind is None:
        raise UsageError(
            "this generator does not say what it takes: give --kind latent|image and --input, such as 100, 100x1x1, "
            "3x256x256 or 3xHxW"
        )
    shape = dimensions(spec.input, "--input")
    if spec.kind == "image":
        if len(shape) != 3:
            raise UsageError(f"--input {spec.input}: a picture is channels × height × width, such as 3x256x256")
        height, width = shape[1:]
        if spec.size is not None:
            dynamic = spec.size == "dynamic" or "," in spec.size
            height, width = ("height", "width") if dynamic else read_size(spec.size)
        first = Port("input", "image", "float32", ("batch", shape[0], height, width), "NCHW", spec.range)
    else:
        if any(isinstance(size, str) for size in shape) or len(shape) not in (1, 3):
            raise UsageError(f"--input {spec.input}: a latent is one fixed size such as 100, or 100x1x1")
        first = Port("latent", "latent", "float32", ("batch", *shape), "NC" if len(shape) == 1 else "NCHW")
    ports = (first, Port("label", "label", "int64", ("batch",), "N")) if spec.classes else (first,)
    output = _output(network, ports, spec)
    kind = f"{spec.kind}-to-{output.role}"
    noise = spec.noise if spec.kind == "latent" else None
    return Interface(kind, ports, (output,), noise, spec.classes)  # type: ignore[arg-type]


def _output(network: nn.Module, ports: tuple[Port, ...], spec: SourceSpec) -> Port:
    """What comes out: found by running it once, unless it is spec."""
    from ganedge.export.from_torch import try_run
    from ganedge.export.to_onnx import example_input

    dynamic = isinstance(ports[0].shape[-1], str) and spec.kind == "image"
    if spec.output_shape is not None:
        given: tuple[int | str, ...] = dimensions(spec.output_shape, "--output-shape")
    elif dynamic and ports[0].role == "image":
        channels = _channels(network, ports, spec)
        given = (channels, *ports[0].shape[2:])
    else:
        given = try_run(network.eval(), tuple(example_input(port) for port in ports))[1:]
    if len(given) == 3:
        if given[0] not in (1, 3, 4):
            raise UsageError(f"this generator gives {given[0]} channels: a picture has 1, 3 or 4")
        return Port("image", "image", "float32", ("batch", *given), "NCHW", spec.range)
    if len(given) == 1 and given[0] == 2:
        return Port("points", "points", "float32", ("batch", 2), "NC")
    shown = "×".join(map(str, given))
    raise UsageError(
        f"this generator gives {shown} for each input, no picture: say its shape, such as --output-shape 1x28x28"
    )


def _channels(network: nn.Module, ports: tuple[Port, ...], spec: SourceSpec) -> int:
    """Channels of what comes out, at a size that every usual multiple divides."""
    from ganedge.export.from_torch import try_run

    example = torch.zeros(1, ports[0].channels, 256, 256)
    more = (torch.zeros(1, dtype=torch.int64),) if spec.classes else ()
    shape = try_run(network.eval(), (example, *more))
    return shape[1] if len(shape) == 4 else 0


def dimensions(text: str, option: str) -> tuple[int | str, ...]:
    """`3xHxW` to (3, "height", "width")."""
    names: dict[str, str] = {"h": "height", "w": "width"}
    sizes: list[int | str] = []
    for part in text.lower().split("x"):
        if part in names:
            sizes.append(names[part])
        elif part.isdigit() and 0 < int(part) <= 65_536:
            sizes.append(int(part))
        else:
            raise UsageError(f"{option} {text}: give sizes with x between them, such as 100, 100x1x1 or 3xHxW")
    return tuple(sizes)


def construct(spec: str, kwargs: Mapping[str, Any] | None) -> nn.Module:
    """Import and make the module; whatever goes wrong in others' code is one line with its place."""
    place, _, name = spec.rpartition(":")
    try:
        found = getattr(_import(place), name)
        network = found
        if not isinstance(found, nn.Module):
            network = found(**(kwargs or {}))
    except GanEdgeError:
        raise
    except AttributeError as error:
        if hasattr(error, "name") and error.name == name:
            raise UsageError(
                f"{place} has no {name}: give {place}:NAME of a class, a function or an instance"
            ) from error
        raise GanEdgeError(_blame(spec, error)) from error
    except Exception as error:
        raise GanEdgeError(_blame(spec, error)) from error
    if found is network and kwargs:
        raise UsageError(f"{spec} is a module that exists already: it takes no --kwargs")
    if not isinstance(network, nn.Module):
        raise UsageError(f"{spec} gives {type(network).__name__}, not a torch.nn.Module")
    return network


def _import(place: str) -> Any:
    path = Path(place)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a Python file with the generator in it")
    sys.path.insert(0, str(path.resolve().parent))  # So that it finds the modules beside it.
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        if "relative import" not in str(error):
            raise
        return _import_in_package(path.resolve())
    return module


def _import_in_package(path: Path) -> Any:
    """A file whose imports are relative, as the part of the package that its folders make."""
    folder, name = path.parent.parent, f"{path.parent.name}.{path.stem}"
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def _blame(spec: str, error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    hint = ""
    if isinstance(error, TypeError):
        hint = "; arguments are given as --kwargs '{\"name\": value}'"
    elif isinstance(error, ModuleNotFoundError):
        hint = "; is it installed, and is the name right?"
    return f"{spec} cannot be made: {type(error).__name__}: {one_line(error)}{where}{hint}"
