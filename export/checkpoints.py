"""Read files of weights: state dicts, training checkpoints and pickled modules, and the part of them that fits.

    load_weights(network, Path("netG.pth"))

Nothing in a file is executed; a checkpoint that needs more is refused until it is trusted.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ganedge.export.compiled import read_compiled
from ganedge.export.foreign_files import near_names, refuse_foreign, zip_content
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import ArtifactError, UsageError, one_line
from ganedge.runtime.files import read_file

WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Components that DataParallel, torch.compile, FSDP and activation checkpointing add to the names of weights."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Names of buffers that count training steps: they may be missing, and may be there, without effect."""
AVERAGES = ("ema", "ge", "gs", "shadow", "averaged", "average", "avg", "swa", "polyak")
"""Words in the name of a part that hold weights averaged over training, which generate better images."""
GENERATORS = ("generator", "netg", "g", "gen")
"""Words in the name of a part that is a generator, best first."""
MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""Number that torch.save wrote first before PyTorch 1.6."""
PREFIX_LEVELS = 3
"""How many components of the names in one state dict may belong to its wrapping: `model.generator.`."""

Part = tuple[str, dict[str, Tensor]]
"""The path to a state dict in a checkpoint, and the weights in it; names `#0`, `#1`, … stand for a list of tensors."""


@dataclass(frozen=True)
class LoadedModule:
    """A module with its weights, before any change, and what is known of it."""

    network: nn.Module
    spec: SourceSpec
    """The user's specification, completed from its architecture."""
    name: str
    """Its name in a manifest."""
    digest: str
    """sha256 of the file of weights; empty where the module came with its own."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it was read."""
    stem: str = "generator"
    """Start of its artifacts' names: the file of its weights, or its class."""
    trained: int | None = None
    """Side of the images that it was designed for, pixels, where any can go in and that is known."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """What its constructor was called with, where that is known."""


@dataclass(frozen=True)
class Match:
    """A part of a checkpoint that fits a network."""

    name: str
    """The path to it in the checkpoint."""
    network: nn.Module
    """The network, filled with it."""
    state: dict[str, Tensor]
    """The weights under the network's names."""
    others: tuple[str, ...] = ()
    """Parts that fit as well, and were not taken."""

    def notes(self, path: Path) -> tuple[str, ...]:
        """Tell the user which part of which file was taken."""
        notes = part_note(path, self.name)
        if self.others:
            shown = ", ".join(self.others[:4])
            notes = (f"{notes[0]}; not taken: {shown} (choose with --part {self.others[0]})",)
        return notes


def load_weights(network: nn.Module, path: Path, trust: bool = False) -> str:
    """Fill a network with the part of a checkpoint that fits it.

    Args:
        network: The network to fill.
        path: A state dict, wrapped or not, or a whole training checkpoint; .safetensors too.
        trust: Whether to read it even if it can execute code.

    Returns:
        The file's sha256.

    Raises:
        ArtifactError: it cannot be read, or nothing in it fits: the message names the keys.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "netG.pth"
    >>> torch.save({"epoch": 3, "state_dict": {"netG.weight": torch.ones(2, 3), "netG.bias": torch.zeros(2)}}, path)
    >>> network = nn.Linear(3, 2)
    >>> digest = load_weights(network, path)
    >>> network(torch.ones(1, 3)).tolist()
    [[3.0, 3.0]]
    """
    content, digest = read_checkpoint(path, trust)
    load_part(network, list(parts_of(content)), path)
    return digest


def read_checkpoint(path: Path, trust: bool = False, script: ModuleType | None = None) -> tuple[Any, str]:
    """Read a file of weights.

    Args:
        path: A file of torch.save, or .safetensors.
        trust: Whether to read it even if it can execute code.
        script: The module to take classes from that were pickled in a script, as `__main__.NAME`.

    Returns:
        Its content, and its sha256.

    Raises:
        ArtifactError: the file is missing, empty, damaged, needs code that is not here, or needs to be trusted.
    """
    refuse_foreign(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist{near_names(path)}; give a file of weights")
    data = read_file(path, "the weights")
    digest = hashlib.sha256(data).hexdigest()
    content = zip_content(path)
    if content in ("torchscript", "exported"):
        return read_compiled(path, content, trust), digest
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return safetensors.torch.load(data), digest
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # PyTorch's remarks on how a checkpoint was pickled.
            if trust and _is_plain_pickle(data):
                return _load_pickle(data, script), digest
            if trust:
                return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_pickle(script)), digest
            return torch.load(path, map_location="cpu", weights_only=True), digest
    except Exception as error:
        raise ArtifactError(_unreadable(path, data, error)) from error


def _pickle(script: ModuleType | None) -> Any:
    """Return a pickle module that looks classes of `__main__` up in a script."""

    class Unpickler(pickle.Unpickler):
        """Classes of the script that saved the file are found in `script`, and tensors of a GPU go to the CPU."""

        def find_class(self, module_name: str, name: str) -> Any:
            """Look a class up."""
            if (module_name, name) == ("torch.storage", "_load_from_bytes"):
                return lambda data: torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
            if module_name == "__main__" and script is not None and hasattr(script, name):
                return getattr(script, name)
            return super().find_class(module_name, name)

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(Unpickler=Unpickler, load=load, __name__="pickle")


def _is_plain_pickle(data: bytes) -> bool:
    """Whether a file is what pickle.dump wrote, as StyleGAN2-ADA does, and not torch.save."""
    return data[:1] == b"\x80" and MAGIC not in data[:64]


def _load_pickle(data: bytes, script: ModuleType | None) -> Any:
    return _pickle(script).load(io.BytesIO(data))


def _unreadable(path: Path, data: bytes, error: Exception) -> str:
    """Say why a file could not be read, and what to do."""
    reason = str(error)
    script_class = re.search(r"attribute '(\w+)' on <module '[\w.]*__main__'", reason)
    if script_class:
        name = script_class[1]
        script = _defining_script(path.resolve().parent, name) or "FILE.py"
        return (
            f"{path} holds an object of class __main__.{name}, defined in the script that saved it: "
            f"give that script, {script}:{name} --weights {path} --trust"
        )
    if isinstance(error, ModuleNotFoundError) or "Can't get attribute" in reason:
        return (
            f"{path} needs code that cannot be imported here ({one_line(error)}): "
            "run gan-export in the folder of the repository that saved it, or give FILE.py:NAME --weights"
        )
    if _is_plain_pickle(data):
        return (
            f"{path} was written by pickle.dump, as StyleGAN2 does, and reading that can execute code: add --trust if "
            "you trust where it comes from, and run this in the folder of the repository that it needs"
        )
    if isinstance(error, pickle.UnpicklingError) and ("weights_only" in reason.lower() or "Unsupported" in reason):
        needs = _refused_classes(data, reason)
        return (
            f"{path} holds more than weights{f' ({needs})' if needs else ''}, and reading that can execute code: "
            "add --trust if you trust where it comes from"
        )
    return f"{path} is cut off, damaged or no checkpoint: {type(error).__name__}: {one_line(error)}"


def _refused_classes(data: bytes, reason: str) -> str:
    """Name the classes for which PyTorch refuses to read a file without trust."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except Exception:  # noqa: BLE001 - an older format, or an older PyTorch: its message names the first one
        names = re.findall(r"GLOBAL ([\w.]+)", reason)
    names = sorted(set(names))
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _defining_script(folder: Path, name: str) -> str | None:
    """Find the script that defines a class, in a folder or here; it is parsed, not executed."""
    for parent in dict.fromkeys((folder, Path.cwd())):
        for path in sorted(parent.glob("*.py"))[:50]:
            try:
                code = ast.parse(path.read_text("utf-8"))
            except (OSError, SyntaxError, ValueError):
                continue
            if any(isinstance(node, ast.ClassDef) and node.name == name for node in code.body):
                return str(path)
    return None


def parts_of(content: Any, name: str = "", depth: int = 0) -> Iterator[Part]:
    """Yield every state dict in a checkpoint with the path to it; whole modules give theirs.

    >>> weights = {"model.netG.weight": torch.zeros(1), "model.netD.weight": torch.zeros(1)}
    >>> [name for name, _ in parts_of({"state_dict": weights})]
    ['state_dict', 'state_dict.model', 'state_dict.model.netD', 'state_dict.model.netG']
    """
    if isinstance(content, nn.Module):
        yield name, content.state_dict()
    elif isinstance(content, list | tuple) and content and all(isinstance(value, Tensor) for value in content):
        yield name, {f"#{index}": value for index, value in enumerate(content)}
    elif isinstance(content, Mapping) and depth <= 4:
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield from _prefixed(tensors, name, PREFIX_LEVELS)
        for key, value in content.items():
            if not isinstance(value, Tensor):
                yield from parts_of(value, _joined(name, str(key)), depth + 1)


def _prefixed(tensors: dict[str, Tensor], name: str, levels: int) -> Iterator[Part]:
    """Yield a state dict, and those under each of its prefixes."""
    yield name, tensors
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        if rest:
            groups.setdefault(prefix, {})[rest] = value
    if levels:
        for prefix in sorted(groups):
            yield from _prefixed(groups[prefix], _joined(name, prefix), levels - 1)


def _joined(name: str, more: str) -> str:
    return f"{name}.{more}" if name else more


def _rank(name: str) -> int:
    """Rank a part by its name, smaller is better: averages, then generators, then anything else."""
    words = name.lower().replace("_", ".").replace("-", ".").split(".")
    if any(word in AVERAGES for word in words):
        return 0
    return 1 + next((rank for rank, word in enumerate(GENERATORS) if word in words), len(GENERATORS))


def ranked(parts: Sequence[Part], path: Path, part: str | None = None) -> list[Part]:
    """Sort the parts that were asked for, the best name first.

    Args:
        parts: As `parts_of` yields them.
        path: The checkpoint, for messages.
        part: Components of the path to a part, `generator` or `model.generator`; None for all.

    Raises:
        ArtifactError: there are no weights at all.
        UsageError: no part of that name.
    """
    if not parts:
        raise ArtifactError(f"{path} holds no weights")
    chosen = list(parts)
    if part is not None:
        chosen = [item for item in parts if f".{part.strip('.')}." in f".{item[0]}."]
        if not chosen:
            names = [name for name, _ in sorted(parts, key=lambda item: item[0].count(".")) if name]
            raise UsageError(f"--part {part}: {path} has no such part, but {', '.join(names[:8]) or 'a single one'}")
    return sorted(chosen, key=lambda item: (_rank(item[0]), item[0].count(".")))


def load_part(network: nn.Module, parts: Sequence[Part], path: Path, part: str | None = None) -> Match:
    """Load the best part that fits into a network; arguments and errors as for `ranked` and `match_weights`."""
    return match_weights(ranked(parts, path, part), path, lambda _: network)


def match_weights(
    parts: Sequence[Part],
    path: Path,
    make: Callable[[dict[str, Tensor]], nn.Module],
) -> Match:
    """Find the part to take, and fill its network with it.

    Args:
        parts: The best name first.
        path: The checkpoint, for messages.
        make: Makes the network for a part; an ArtifactError where the part belongs to another kind of network.

    Raises:
        ArtifactError: none fits; the message names the differences of the part that nearly does.
        UsageError: several fit equally well, and differ.
    """
    fitting: list[Match] = []
    lists: list[Part] = []
    nearest: tuple[int, str] | None = None
    for name, weights in parts:
        if any(key.startswith("#") for key in weights):
            lists.append((name, weights))
            continue
        try:
            network = make(weights)
        except ArtifactError as error:
            nearest = nearest or (-1, str(error))
            continue
        expected = network.state_dict()
        state = _without_old_statistics(network, _aligned(weights, expected))
        if _fits(expected, state):
            if not any(_same(state, other.state) for other in fitting):
                fitting.append(Match(name, network, state))
            continue
        alike = sum(1 + (expected[key].shape == value.shape) for key, value in state.items() if key in expected)
        if nearest is None or alike > nearest[0]:
            nearest = (alike, f"{path} does not fit this generator: {_misfit(expected, state)}")
    if not fitting:
        if nearest is None:
            raise ArtifactError(f"{path} holds lists of tensors without names, and no state dict that they belong to")
        raise ArtifactError(nearest[1])
    fitting += [match for item in lists if (match := _of_list(item, fitting[0])) is not None]
    return _best(fitting, path)


def _of_list(part: Part, match: Match) -> Match | None:
    """Combine a list of averaged parameters (FastGAN, torch_ema) with the buffers of a part that fits."""
    name, weights = part
    parameters = [key for key, _ in match.network.named_parameters()]
    values = list(weights.values())
    if [value.shape for value in values] != [match.state[key].shape for key in parameters if key in match.state]:
        return None
    return Match(name, match.network, {**match.state, **dict(zip(parameters, values, strict=True))})


def _best(fitting: Sequence[Match], path: Path) -> Match:
    """Take the part with the best name; a UsageError where two have names as good."""
    least = min(_rank(match.name) for match in fitting)
    best = [match for match in fitting if _rank(match.name) == least]
    if len(best) > 1:
        _refuse_several([match.name for match in best], path)
    match = best[0]
    match.network.load_state_dict(match.state, strict=False)
    others = tuple(other.name for other in fitting if other is not match and other.name)
    return Match(match.name, match.network, match.state, others if match.name else ())


def _fits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Whether a part holds all that a network has, and no more."""
    missing = [key for key in expected if key not in state and not key.endswith(COUNTERS)]
    return not missing and all(key in expected and expected[key].shape == value.shape for key, value in state.items())


def only_candidate(parts: Sequence[Part], path: Path) -> Part:
    """Return the best part, unless others of as good a name have the same layers and other weights (UsageError)."""
    parts = [part for part in parts if not any(key.startswith("#") for key in part[1])]
    name, state = parts[0]
    shapes = {key: value.shape for key, value in state.items()}
    alike = [
        other
        for other, weights in parts[1:]
        if _rank(other) == _rank(name)
        and {key: value.shape for key, value in weights.items()} == shapes
        and not _same(weights, state)
    ]
    if alike:
        _refuse_several([name, *alike], path)
    return name, state


def _refuse_several(names: Sequence[str], path: Path) -> NoReturn:
    shown = [name or "the whole file" for name in names]
    raise UsageError(
        f"{path} holds {len(shown)} generators that fit, {', '.join(shown)}: choose one with --part {shown[-1]}"
    )


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def part_note(path: Path, name: str) -> tuple[str, ...]:
    """Tell the user which part was taken, where the checkpoint has parts."""
    return (f"weights: the part {name} of {path.name}",) if name else ()


def _aligned(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the network's names, regardless of wrappers on either side."""
    names = {without_wrappers(key): key for key in expected}
    if len(names) < len(expected):  # The network's own names need their wrappers.
        return weights
    first = f"{next(iter(expected), '').partition('.')[0]}."
    if all(key.startswith(first) for key in expected) and not any(key.startswith(first) for key in weights):
        # Saved without the outermost module.
        names |= {without_wrappers(key.removeprefix(first)): key for key in expected}
    plain = {key: without_wrappers(key) for key in weights}
    aligned = {key if key in expected else names.get(plain[key], plain[key]): weights[key] for key in weights}
    return {key: value for key, value in aligned.items() if key in expected or key not in COUNTERS}


def without_wrappers(key: str) -> str:
    """Return a weight's name without the parts that DataParallel, torch.compile and FSDP put into it.

    >>> without_wrappers("module.layers.0.weight")
    'layers.0.weight'
    """
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _without_old_statistics(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop running statistics that InstanceNorm of old PyTorch saved and never used."""
    without_statistics = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and not module.track_running_stats
    }
    old = ("running_mean", "running_var", "num_batches_tracked")
    return {
        key: value
        for key, value in state.items()
        if not (key.rpartition(".")[0] in without_statistics and key.rpartition(".")[2] in old)
    }


def _misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Say which weights have another shape, or which keys are missing or unknown, with the nearest names."""
    shapes = [
        f"{key} is {tuple(value.shape)}, the generator has {tuple(expected[key].shape)}"
        for key, value in state.items()
        if key in expected and expected[key].shape != value.shape
    ]
    missing = [key for key in expected if key not in state and not key.endswith(COUNTERS)]
    extra = [key for key in state if key not in expected]
    lines = shapes[:4] + ([f"and {len(shapes) - 4} more shapes differ"] if len(shapes) > 4 else [])
    if missing or extra:
        first = (missing or extra)[0]
        near = difflib.get_close_matches(first, extra if missing else list(expected), 3, 0.0)
        lines += [
            f"{len(missing)} keys are missing, {len(extra)} are not known",
            f"{'missing' if missing else 'unknown'} {first}, nearest: {', '.join(near) or 'none'}",
        ]
    return "; ".join(lines)
