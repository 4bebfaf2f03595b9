"""Read files of weights: state dicts, training checkpoints and pickled modules, and the part of them that fits.

    load_weights(network, Path("netG.pth"))

Nothing in a file is executed; a checkpoint that needs more is refused until it is trusted.
"""

from __future__ import annotations

import difflib
import hashlib
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import ArtifactError, UsageError, one_line
from ganedge.runtime.files import read_file

PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""
PREFERRED = ("ema", "generator", "netg", "g", "gen")
"""Words in the name of a part of a checkpoint that make it the one to export, best first."""
SCRIPT = (
    "{} is TorchScript, a module compiled without its source: give that, FILE.py:NAME, with its state dict as --weights"
)
"""What there is to say of torch.jit.save's files."""


Part = tuple[str, dict[str, Tensor]]
"""The path to a state dict in a checkpoint, and what it holds."""


@dataclass(frozen=True)
class LoadedModule:
    """A module with its weights, as it came, and what is known of it."""

    network: nn.Module
    spec: SourceSpec
    """What the user stated, completed by what its architecture implies."""
    name: str
    """What it is called in a manifest."""
    digest: str
    """sha256 of its weights' file; empty where it brought its own."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was read."""
    stem: str = "generator"
    """What the names of its artifacts begin with: the file of its weights, or its class."""


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
    load_part(network, list(parts_of(content)), path)
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


def parts_of(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
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
        yield from parts_of(value, f"{name}.{key}", depth + 1)


def _rank(name: str) -> int:
    """How much a part's name speaks for it: smaller is better."""
    words = name.lower().replace("_", ".").replace("-", ".").split(".")
    return next((place for place, word in enumerate(PREFERRED) if word in words), len(PREFERRED))


def ranked(parts: list[Part], path: Path, part: str | None = None) -> list[Part]:
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


def load_part(network: nn.Module, parts: list[Part], path: Path, part: str | None = None) -> str:
    """Load the best part that fits, and say which; the error tells of the one that nearly did."""
    name, _, state = match_weights(ranked(parts, path, part), path, lambda _: network)
    network.load_state_dict(state, strict=False)
    return name


def match_weights(
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


def only_candidate(parts: list[Part], path: Path) -> Part:
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


def part_note(path: Path, name: str) -> tuple[str, ...]:
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
    summary = f"{len(missing)} keys are missing, {len(extra)} are not known"
    first = (missing or extra)[0]
    near = difflib.get_close_matches(first, extra if missing else list(wanted), 3, 0.0)
    return f"{summary}; {'missing' if missing else 'unknown'} {first}, nearest: {', '.join(near) or 'none'}"
