"""Generators that others trained: any torch module with its weights, or a checkpoint in a format that is known.

    original = of_module("nets.py:Generator", Foreign(weights=Path("netG.pth"), input="100x1x1", kind="latent"))
    original = of_checkpoint(Path("latest_net_G.pth"), "resnet_9blocks", Foreign())

Weights are read without executing anything in them; a checkpoint that needs more is refused until it is trusted.
Naming a module is trusting it: its file is executed.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import json
import pickle
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from ganedge.export import architectures
from ganedge.export.from_torch import NormChoice, of_network, unwrap
from ganedge.export.sizes import read_size
from ganedge.export.source_model import SourceModel
from ganedge.runtime.errors import ArtifactError, GanEdgeError, MissingExtra, UsageError, one_line
from ganedge.runtime.files import read_file
from ganedge.runtime.manifest import Interface, Noise, Port, Source, program

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""
PREFERRED = ("ema", "generator", "netg", "g", "gen")
"""Words in the name of a part of a checkpoint that make it the one to export, best first."""
SCRIPT = (
    "{} is TorchScript, a module compiled without its source: give that, FILE.py:NAME, with its state dict as --weights"
)
"""What there is to say of torch.jit.save's files."""


@dataclass(frozen=True)
class Foreign:
    """What must be said of a generator that does not say it itself."""

    kwargs: Mapping[str, Any] | None = None
    """Arguments that construct it."""
    weights: Path | None = None
    """Its weights: a checkpoint or a safetensors file; None keeps those it has."""
    input: str | None = None
    """What one input is, without the batch: 100, 100x1x1, 3x256x256, or 3xHxW for any height and width."""
    output: str | None = None
    """What one output is, 1x28x28, where the network gives it in another shape."""
    kind: Literal["latent", "image"] | None = None
    """What goes in."""
    range: tuple[float, float] = (-1.0, 1.0)
    """Values of black and white."""
    noise: Noise = "normal"
    """The distribution of its latents."""
    classes: tuple[str, ...] = ()
    """Names of the classes that its second input chooses from."""
    norm: NormChoice = "eval"
    """Statistics of its normalisation."""
    size: str | None = None
    """Height and width of pictures: 256, 256x320, or dynamic."""
    trust: bool = False
    """Whether to read weights that can execute code."""
    arch_norm: Literal["instance", "batch"] = "instance"
    """Normalisation of an architecture that is named."""
    part: str | None = None
    """The part of a checkpoint to take, where it holds several generators: genA2B, state.genA2B."""


@dataclass(frozen=True)
class LoadedModule:
    """A module with its weights, as it came, and what is known of it."""

    network: nn.Module
    said: Foreign
    """What was said, and what its architecture says."""
    name: str
    """What it is called in a manifest."""
    digest: str
    """sha256 of its weights' file; empty where it brought its own."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read."""
    stem: str = "generator"
    """What the names of its artifacts begin with: the file of its weights, or its class."""


def of_module(spec: str, said: Foreign) -> SourceModel:
    """A torch module, given as `file.py:name` or `package.module:name`: a class, a function or an instance.

    Raises:
        UsageError: no such file or name, or arguments that do not fit it.
        ArtifactError: weights that cannot be read or do not fit.
        GanEdgeError: it cannot run or be exported.
    """
    return _finish(open_module(spec, said))


def open_module(spec: str, said: Foreign) -> LoadedModule:
    """The module alone, see `of_module`."""
    network = construct(spec, said.kwargs)
    if said.weights is None:
        if said.part is not None:
            raise UsageError(f"--part {said.part} is a part of a checkpoint: give that with --weights")
        return LoadedModule(network, said, spec, "", stem=spec.rpartition(":")[2])
    content, digest = read_checkpoint(said.weights, said.trust)
    taken = _fit(network, list(_parts(content)), said.weights, said.part)
    return LoadedModule(network, said, spec, digest, _told(said.weights, taken), said.weights.stem)


def of_pickle(path: Path, said: Foreign) -> SourceModel:
    """A whole module that torch.save wrote; reading it executes code, so it must be trusted.

    Raises:
        UsageError: the file holds weights alone, which need their module.
        ArtifactError: not trusted, not readable, or its classes cannot be imported from here.
    """
    return _finish(open_pickle(path, said))


def open_pickle(path: Path, said: Foreign) -> LoadedModule:
    """The module alone, see `of_pickle`."""
    sys.path.insert(0, str(Path.cwd()))
    sys.path.insert(0, str(path.resolve().parent))  # The classes of a pickled module are imported by name.
    content, digest = read_checkpoint(path, said.trust)
    notes: tuple[str, ...] = ()
    if said.part is not None and isinstance(content, nn.Module):
        raise UsageError(f"--part {said.part}: {path} is one whole module; leave it out")
    if isinstance(content, Mapping):
        modules = {str(key): value for key, value in content.items() if isinstance(value, nn.Module)}
        if said.part is not None and modules:
            if said.part not in modules:
                raise UsageError(f"--part {said.part}: {path} has no such module, but {', '.join(modules)}")
            modules = {said.part: modules[said.part]}
        if len(modules) > 1:
            raise UsageError(f"{path} holds {len(modules)} modules: choose one with --part {'|'.join(modules)}")
        for name, module in modules.items():
            content, notes = module, _told(path, name)
    if isinstance(content, torch.jit.ScriptModule):
        raise UsageError(SCRIPT.format(path))
    if not isinstance(content, nn.Module):
        raise UsageError(f"{path} is weights alone: give their module, FILE.py:NAME --weights {path}, or --arch auto")
    return LoadedModule(content, said, path.name, digest, notes, path.stem)


def of_checkpoint(path: Path, arch: str, said: Foreign) -> SourceModel:
    """A generator of pytorch-CycleGAN-and-pix2pix, or with `auto` one of super-resolution, from its weights alone.

    Raises:
        UsageError: an unknown architecture.
        ArtifactError: weights that cannot be read or do not fit.
    """
    return _finish(open_checkpoint(path, arch, said))


def open_checkpoint(path: Path, arch: str, said: Foreign) -> LoadedModule:
    """The module alone, see `of_checkpoint`."""
    content, digest = read_checkpoint(path, said.trust)
    parts = _ranked(list(_parts(content)), path, said.part)
    if arch == "auto":
        name, state = _one_of_its_kind(parts, path)
        return _recognised(path, state, digest, said, _told(path, name))
    name, network, state = _settle(parts, path, lambda state: architectures.build(arch, state, said.arch_norm))
    # Its generators work at any size that halves evenly; the U-Nets' multiple is found by trying.
    size = said.size or ("dynamic" if said.input is None else None)
    channels = architectures.channels(state)
    filled = {**vars(said), "kind": "image", "input": said.input or f"{channels}xHxW", "size": size}
    return LoadedModule(network, Foreign(**filled), arch, digest, _told(path, name), path.stem)


def _recognised(
    path: Path, state: dict[str, Tensor], digest: str, said: Foreign, notes: tuple[str, ...]
) -> LoadedModule:
    """A super-resolution or restoration network that spandrel knows by its weights; pictures of 0 to 1 go in.

    Raises:
        MissingExtra: spandrel is not installed.
        ArtifactError: it knows no such weights, or they need more inputs than a picture.
    """
    try:
        import spandrel
    except ImportError as error:
        raise MissingExtra("spandrel", "sr", "--arch auto") from error
    try:
        found = spandrel.ModelLoader(torch.device("cpu")).load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise ArtifactError(
            f"{path}: spandrel {version('spandrel')} recognises no network by these weights; give its module, "
            f"FILE.py:NAME --weights {path}"
        ) from error
    except Exception as error:
        reason = one_line(error)
        raise ArtifactError(f"{path}: these weights do not fit what they look like ({reason})") from error
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise ArtifactError(f"{path} is a {found.architecture.name} network, which takes more than a picture")
    filled = {
        **vars(said),
        "kind": "image",
        "input": said.input or f"{found.input_channels}xHxW",
        "range": (0.0, 1.0),
        "size": said.size or ("dynamic" if said.input is None else None),
    }
    tags = ", ".join(found.tags)
    note = f"recognised: {found.architecture.name}{f' ({tags})' if tags else ''}, {found.scale} × the size"
    return LoadedModule(found.model, Foreign(**filled), found.architecture.id, digest, (*notes, note), path.stem)


def open_network(source: str, arch: str | None, said: Foreign, plain: bool = False) -> LoadedModule:
    """What `of_module`, `of_pickle` or `of_checkpoint` would export, as a network that is ready to run.

    Args:
        source: `FILE.py:NAME`, `module:NAME`, or a checkpoint.
        arch: As `of_checkpoint` takes it; None where the source says its own architecture.
        said: What the source does not say itself.
        plain: It is known to give one tensor and to take class numbers, so that this need not be tried.

    Returns:
        Its network is FP32, on the CPU, in evaluation mode and unwrapped; one tensor comes out, class numbers go in.
    """
    opened = _opened(source, arch, said)
    network, notes = unwrap(opened.network).float().cpu(), opened.notes
    if not plain:
        network, more = _plain(network, opened.said)
        notes = (*notes, *more)
    return replace(opened, network=_reshaped(network, opened.said), notes=notes)


def of_source(source: str, arch: str | None, said: Foreign) -> SourceModel:
    """What `of_module`, `of_pickle` or `of_checkpoint` gives, by how the source looks."""
    return _finish(_opened(source, arch, said))


def _opened(source: str, arch: str | None, said: Foreign) -> LoadedModule:
    path = Path(source)
    if arch is not None:
        return open_checkpoint(path, arch, said)
    return open_module(source, said) if ":" in source and not path.exists() else open_pickle(path, said)


def _finish(opened: LoadedModule) -> SourceModel:
    said, name = opened.said, opened.name
    network, notes = _plain(unwrap(opened.network).float().cpu(), said)
    interface = _interface(network, said)
    network = _reshaped(network, said)
    trained = _trained(said, name) if interface.inputs[0].role == "image" else None
    source = Source(
        variant=Path(name.rpartition(":")[0]).name + ":" + name.rpartition(":")[2] if ":" in name else name,
        generator=said.part or "generator",
        config={} if trained is None else {"size": trained},
        weights=opened.digest,
        program=program(),
    )
    stem = opened.stem if said.part is None else f"{opened.stem}-{re.sub('[^0-9A-Za-z_-]+', '-', said.part)}"
    made = of_network(network, interface, source, said.norm, Path(), stem)
    return replace(made, notes=(*opened.notes, *notes))


def _trained(said: Foreign, name: str) -> int | None:
    """The side of the pictures it is meant for, pixels: of --input or --size, or what its architecture is trained on.

    Proof and calibration take it where heights and widths are dynamic: small pictures judge a deep network too kindly.
    """
    assert said.input is not None
    sizes = [size for size in dimensions(said.input, "--input")[1:] if isinstance(size, int)]
    if said.size is not None and said.size != "dynamic":
        parts = said.size.split(",")
        sizes = list(read_size(parts[len(parts) // 2]))
    return max(sizes) if sizes else architectures.TRAINED.get(name)


def _reshaped(network: nn.Module, said: Foreign) -> nn.Module:
    """Its output in the shape that was said, where one was."""
    return network if said.output is None else Reshaped(network, dimensions(said.output, "--output-shape"))


def _plain(network: nn.Module, said: Foreign) -> tuple[nn.Module, tuple[str, ...]]:
    """With one tensor for a result and class numbers for labels, as every artifact has; and what was done for that."""
    if said.input is None or said.kind is None:
        return network, ()
    notes: tuple[str, ...] = ()
    sizes = [256 if isinstance(size, str) else size for size in dimensions(said.input, "--input")]
    if said.kind == "image" and said.size is not None and said.size != "dynamic" and "," not in said.size:
        sizes[1:] = read_size(said.size)
    first = torch.zeros(2, *sizes)
    network.eval()
    with torch.inference_mode():
        if said.classes:
            label = torch.zeros(2, dtype=torch.int64)
            if _result(network, first, label) is None:
                vectors = OneHot(network, len(said.classes))
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
            network = Taken(network, key)
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


class Taken(nn.Module):
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


def _interface(network: nn.Module, said: Foreign) -> Interface:
    """What the network takes and gives, from what was said and one run."""
    if said.input is None or said.kind is None:
        raise UsageError(
            "this generator does not say what it takes: give --kind latent|image and --input, such as 100, 100x1x1, "
            "3x256x256 or 3xHxW"
        )
    shape = dimensions(said.input, "--input")
    if said.kind == "image":
        if len(shape) != 3:
            raise UsageError(f"--input {said.input}: a picture is channels × height × width, such as 3x256x256")
        height, width = shape[1:]
        if said.size is not None:
            dynamic = said.size == "dynamic" or "," in said.size
            height, width = ("height", "width") if dynamic else read_size(said.size)
        first = Port("input", "image", "float32", ("batch", shape[0], height, width), "NCHW", said.range)
    else:
        if any(isinstance(size, str) for size in shape) or len(shape) not in (1, 3):
            raise UsageError(f"--input {said.input}: a latent is one fixed size such as 100, or 100x1x1")
        first = Port("latent", "latent", "float32", ("batch", *shape), "NC" if len(shape) == 1 else "NCHW")
    ports = (first, Port("label", "label", "int64", ("batch",), "N")) if said.classes else (first,)
    output = _output(network, ports, said)
    kind = f"{said.kind}-to-{output.role}"
    noise = said.noise if said.kind == "latent" else None
    return Interface(kind, ports, (output,), noise, said.classes)  # type: ignore[arg-type]


def _output(network: nn.Module, ports: tuple[Port, ...], said: Foreign) -> Port:
    """What comes out: found by running it once, unless it is said."""
    from ganedge.export.from_torch import _try
    from ganedge.export.to_onnx import example_input

    dynamic = isinstance(ports[0].shape[-1], str) and said.kind == "image"
    if said.output is not None:
        given: tuple[int | str, ...] = dimensions(said.output, "--output-shape")
    elif dynamic and ports[0].role == "image":
        channels = _channels(network, ports, said)
        given = (channels, *ports[0].shape[2:])
    else:
        given = _try(network.eval(), tuple(example_input(port) for port in ports))[1:]
    if len(given) == 3:
        if given[0] not in (1, 3, 4):
            raise UsageError(f"this generator gives {given[0]} channels: a picture has 1, 3 or 4")
        return Port("image", "image", "float32", ("batch", *given), "NCHW", said.range)
    if len(given) == 1 and given[0] == 2:
        return Port("points", "points", "float32", ("batch", 2), "NC")
    shown = "×".join(map(str, given))
    raise UsageError(
        f"this generator gives {shown} for each input, no picture: say its shape, such as --output-shape 1x28x28"
    )


def _channels(network: nn.Module, ports: tuple[Port, ...], said: Foreign) -> int:
    """Channels of what comes out, at a size that every usual multiple divides."""
    from ganedge.export.from_torch import _try

    example = torch.zeros(1, ports[0].channels, 256, 256)
    more = (torch.zeros(1, dtype=torch.int64),) if said.classes else ()
    shape = _try(network.eval(), (example, *more))
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


def load_weights(network: nn.Module, path: Path, trust: bool = False) -> str:
    """Put a checkpoint's weights into a network; the part of the checkpoint that fits is found.

    Args:
        network: To be filled.
        path: A state dict, wrapped or not, or a whole training checkpoint; .safetensors too.
        trust: Whether to read it even if it can execute code.

    Returns:
        The file's sha256.

    Raises:
        ArtifactError: it cannot be read, or nothing in it fits: the message says which keys.
    """
    content, digest = read_checkpoint(path, trust)
    _fit(network, list(_parts(content)), path)
    return digest


def read_checkpoint(path: Path, trust: bool = False) -> tuple[Any, str]:
    """What a file of weights holds, and its sha256."""
    data = read_file(path, "the weights")
    digest = hashlib.sha256(data).hexdigest()
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return safetensors.torch.load(data), digest
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch's thoughts on how a checkpoint was pickled.
            return torch.load(path, map_location="cpu", weights_only=not trust), digest
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "weights_only" not in reason.lower() and "Unsupported" not in reason:
            raise ArtifactError(f"{path} is damaged or no checkpoint: {one_line(error)}") from error
        needs = next(
            (part for part in reason.split() if part.count(".") and part[0].isalpha() and "torch." not in part), ""
        )
        raise ArtifactError(
            f"{path} holds more than weights{f' ({needs})' if needs else ''}, and reading that can execute code: "
            "add --trust if you trust where it comes from"
        ) from error
    except Exception as error:
        reason = one_line(error)
        if "TorchScript" in reason:
            raise ArtifactError(SCRIPT.format(path)) from error
        raise ArtifactError(f"{path} is cut off, damaged or no checkpoint: {type(error).__name__}: {reason}") from error


def _parts(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every state dict in a checkpoint, with the path to it; whole modules give theirs."""
    if isinstance(content, nn.Module):
        yield name, content.state_dict()
        return
    if not isinstance(content, Mapping) or depth > 4:
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield name, dict(tensors)
        for prefix in sorted({key.partition(".")[0] + "." for key in tensors if "." in key}):
            yield (
                f"{name}.{prefix}",
                {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)},
            )
    for key, value in content.items():
        yield from _parts(value, f"{name}.{key}", depth + 1)


def _rank(name: str) -> int:
    """How much a part's name speaks for it: smaller is better."""
    words = name.lower().replace("_", ".").replace("-", ".").split(".")
    return next((place for place, word in enumerate(PREFERRED) if word in words), len(PREFERRED))


Part = tuple[str, dict[str, Tensor]]
"""The path to a state dict in a checkpoint, and what it holds."""


def _ranked(parts: list[Part], path: Path, part: str | None = None) -> list[Part]:
    """The parts that may be asked for, the best name first.

    Raises:
        ArtifactError: there are none at all.
        UsageError: none of that name.
    """
    if not parts:
        raise ArtifactError(f"{path} holds no weights")
    if part is not None:
        named = [one for one in parts if f".{part.strip('.')}." in f".{one[0].strip('.')}."]
        if not named:
            names = [name.strip(".") for name, _ in parts if name.strip(".")]
            raise UsageError(f"--part {part}: {path} has no such part, but {', '.join(names[:8]) or 'one alone'}")
        parts = named
    return sorted(parts, key=lambda one: _rank(one[0]))


def _fit(network: nn.Module, parts: list[Part], path: Path, part: str | None = None) -> str:
    """Load the best part that fits, and say which; the error tells of the one that nearly did."""
    name, _, state = _settle(_ranked(parts, path, part), path, lambda _: network)
    network.load_state_dict(state, strict=False)
    return name


def _settle(
    parts: list[Part], path: Path, make: Callable[[dict[str, Tensor]], nn.Module]
) -> tuple[str, nn.Module, dict[str, Tensor]]:
    """The part to take, the network that it is of, filled with it, and what it was filled with.

    Args:
        parts: The best name first.
        path: The checkpoint.
        make: Gives the network for a part, or an ArtifactError where it is of another kind.

    Raises:
        ArtifactError: none fits; the message tells of the one that nearly did.
        UsageError: several fit equally well, and differ.
    """
    found: list[tuple[str, nn.Module, dict[str, Tensor]]] = []
    near: tuple[int, str] | None = None
    for name, state in parts:
        if found and _rank(name) > _rank(found[0][0]):
            break
        try:
            network = make(state)
        except ArtifactError as error:
            near = near or (-1, str(error))
            continue
        wanted, ready = network.state_dict(), _without_old_statistics(network, _stripped(state))
        if _fills(network, ready):
            if not any(_same(ready, other) for _, _, other in found):
                found.append((name, network, ready))
            continue
        alike = sum(key in wanted and wanted[key].shape == value.shape for key, value in ready.items())
        if near is None or alike > near[0]:
            near = (alike, f"{path} does not fit this generator: {_misfit(wanted, ready)}")
    if len(found) > 1:
        _refuse_several([name for name, _, _ in found], path)
    if not found:
        assert near is not None
        raise ArtifactError(near[1])
    return found[0]


def _fills(network: nn.Module, state: dict[str, Tensor]) -> bool:
    """Load a part, and say whether it is all that the network has and no more."""
    try:
        missing, more = network.load_state_dict(state, strict=False)
    except RuntimeError:  # A shape differs; which one, `_misfit` says.
        return False
    return not more and all(key.endswith("num_batches_tracked") for key in missing)


def _one_of_its_kind(parts: list[Part], path: Path) -> Part:
    """The best part, unless others of as good a name have the same layers and other weights (UsageError)."""
    name, state = parts[0]
    shapes = {key: value.shape for key, value in state.items()}
    alike = [
        other
        for other, more in parts[1:]
        if _rank(other) == _rank(name)
        and {key: value.shape for key, value in more.items()} == shapes
        and not _same(more, state)
    ]
    if alike:
        _refuse_several([name, *alike], path)
    return name, state


def _refuse_several(names: list[str], path: Path) -> NoReturn:
    shown = [name.strip(".") or "the whole file" for name in names]
    raise UsageError(
        f"{path} holds {len(shown)} generators that fit, {', '.join(shown)}: choose one with --part {shown[-1]}"
    )


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _told(path: Path, name: str) -> tuple[str, ...]:
    """What to say of the part that was taken, where the checkpoint has parts."""
    return (f"weights: the part {name.strip('.')} of {path.name}",) if name.strip(".") else ()


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def _without_old_statistics(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """InstanceNorm of old PyTorch saved running statistics that it never used."""
    plain = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and not module.track_running_stats
    }
    old = ("running_mean", "running_var", "num_batches_tracked")
    return {
        key: value
        for key, value in state.items()
        if not (key.rpartition(".")[0] in plain and key.rpartition(".")[2] in old)
    }


def _misfit(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Which keys are missing, too many, or of another shape, and the nearest names."""
    for key, value in state.items():
        if key in wanted and wanted[key].shape != value.shape:
            return f"{key} is {tuple(value.shape)}, the generator has {tuple(wanted[key].shape)}"
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in wanted]
    said = f"{len(missing)} keys are missing, {len(extra)} are not known"
    first = (missing or extra)[0]
    near = difflib.get_close_matches(first, extra if missing else list(wanted), 3, 0.0)
    return f"{said}; {'missing' if missing else 'unknown'} {first}, nearest: {', '.join(near) or 'none'}"


def read_kwargs(text: str | None) -> Mapping[str, Any] | None:
    """Arguments as JSON.

    Raises:
        UsageError: it is no JSON object.
    """
    if text is None:
        return None
    try:
        given = json.loads(text)
    except ValueError as error:
        raise UsageError(f'--kwargs {text}: not JSON ({error}); give {{"name": value}}') from error
    if not isinstance(given, dict):
        raise UsageError(f'--kwargs {text}: give a JSON object, {{"name": value}}')
    return given
