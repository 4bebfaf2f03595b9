"""A run: the folder that one training leaves behind, and all that export and resume read from it.

    config.json             the resolved config, the trainer's settings and the data's facts
    generator.safetensors   the weights to export: the moving average where it is on
    metrics.jsonl           one line per report
    samples/                pictures of fixed noise, named by step
    checkpoints/STEP/       everything needed to go on: state.safetensors and state.json

Nothing in it is a pickle, so opening a run never executes code from it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ganedge.models import Variant, find
from ganedge.models.variant import VariantConfig
from ganedge.runtime.cli.terminal import printable
from ganedge.runtime.errors import ArtifactError, GanEdgeError, UsageError, one_line
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Source, program
from ganedge.train import checkpoint

CONFIG = "config.json"
COMPRESSION = "compression.json"
"""What a student was compressed from and how near it came, for the manifests of its artifacts."""
LOCK = ".lock"
SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """A run folder that was read."""

    folder: Path
    variant: type[Variant]
    config: VariantConfig
    settings: Mapping[str, Any]
    """The trainer's settings, as `config.json` holds them."""
    data: Mapping[str, Any]
    """What was found of the data: how many items, and the path where it has one."""

    def generator(self, name: str = "generator", at: str = "last") -> tuple[nn.Module, Source]:
        """One generator with its trained weights, in FP32 and evaluation mode, and where it comes from.

        Args:
            name: Which.
            at: `last`, `best` (of a run with `--features`), or the step of a checkpoint.

        Raises:
            UsageError: no such moment.
            ArtifactError: no weights yet, damaged ones, or ones that do not fit the config.
        """
        step, weights, path = self._weights(name, at)
        network = self.variant(self.config).networks[name]
        try:
            network.load_state_dict(safetensors.torch.load(weights))
        except (SafetensorError, RuntimeError, ValueError, TypeError) as error:
            reason = one_line(error)
            raise ArtifactError(f"{path} is damaged or does not fit {self.folder / CONFIG}: {reason}") from error
        source = Source(
            variant=self.variant.name,
            generator=name,
            config=asdict(self.config),
            data=name_of_data(str(self.settings.get("data", ""))),
            step=step,
            weights=hashlib.sha256(weights).hexdigest(),
            program=program(),
            compressed=_read_compression(self.folder),
        )
        return network.eval(), source

    def _weights(self, name: str, at: str) -> tuple[int, bytes, Path]:
        """Step, weights as safetensors, and where they come from."""
        if at != "last":
            step = (
                checkpoint.best(self.folder) if at == "best" else int(at) if at.isascii() and at.isdecimal() else None
            )
            if step is None:
                hint = "train with --features to measure them" if at == "best" else "give last, best or a number"
                raise UsageError(f"{self.folder} has no {at} checkpoint: {hint}")
            averages = checkpoint.load(self.folder, step)["averages"]
            return step, safetensors.torch.save(averages[name]), checkpoint.path(self.folder, step)
        path = weights_path(self.folder, name)
        if not path.is_file():
            raise ArtifactError(f"{self.folder} holds no {path.name} yet: let it train up to its first checkpoint")
        try:
            with safetensors.safe_open(str(path), "pt") as file:
                step = int((file.metadata() or {}).get("step", 0))
            return step, path.read_bytes(), path
        except (SafetensorError, ValueError, OSError) as error:
            reason = one_line(error)
            raise ArtifactError(f"{path} is damaged or does not fit {self.folder / CONFIG}: {reason}") from error


def weights_path(folder: Path, name: str) -> Path:
    """Where a generator's weights lie: `generator.safetensors`, `generator-a2b.safetensors`."""
    return folder / f"{name}.safetensors"


def check_free(folder: Path) -> None:
    """Check that a folder contains no run, or one without checkpoints and weights.

    Raises:
        UsageError: it holds checkpoints or weights.
    """
    if checkpoint.steps(folder) or any(folder.glob("*.safetensors")):
        raise UsageError(f"{folder} already holds a run: add --resume to go on with it, or give another --out")


def write_config(
    folder: Path, variant: type[Variant], config: VariantConfig, settings: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """Write `config.json`: what is trained, how, and on what, with nothing left open."""
    content = {
        "schema": SCHEMA,
        "program": program(),
        "variant": variant.name,
        "config": asdict(config),
        "training": dict(settings),
        "data": dict(data),
    }
    write_whole(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def read_config(path: Path) -> Run:
    """Read a run folder, or a config.json of any name ending in .json. Raises as `read` does."""
    return read(path.parent, path.name) if path.suffix == ".json" else read(path)


def read(folder: Path, name: str = CONFIG) -> Run:
    """Read a run folder.

    Args:
        folder: The run folder.
        name: Of the config in it.

    Raises:
        ArtifactError: not a run folder, a damaged config, or one from a newer version.
    """
    path = folder / name
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        what = "is not a run: it holds no config.json" if folder.is_dir() else "does not exist"
        raise ArtifactError(f"{folder} {what}; give a folder that gan-train wrote") from None
    except NotADirectoryError:
        raise ArtifactError(f"{folder} is a file: give a folder that gan-train wrote") from None
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    try:
        if content["schema"] > SCHEMA:
            raise ArtifactError(f"{path} is from a newer ganedge (schema {content['schema']}): pip install -U ganedge")
        variant = find(content["variant"])
        settings = dict(content["training"])
        # Before there was a unit, pictures were steps apart.
        config = variant.config_class(**{"sample_unit": "steps", **content["config"]})
        data = dict(content["data"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged: {type(error).__name__} {error}") from error
    return Run(folder, variant, config, settings, data)


def name_of_data(data: str) -> str:
    """What an artifact says it was trained on: the name of the set or folder, without its path."""
    kind, colon, _ = data.partition(":")
    built_in = colon and "/" not in kind and len(kind) > 1  # One letter is a drive of Windows.
    name = kind if built_in else Path(data).expanduser().resolve().name.rpartition("\\")[2]
    return printable(name).replace("\n", "\\n")[:1000]


def read_settings(path: Path, known: set[str]) -> dict[str, Any]:
    """The trainer's settings of an earlier run, to repeat it: all but where it was written and how it began.

    Raises:
        ArtifactError: not a run's config.
    """
    run = read_config(path)
    own = {"out", "resume", "config", "preset"}
    kept = {name: value for name, value in run.settings.items() if name in known - own and value is not None}
    return {name: Path(value) if name == "init" and isinstance(value, str) else value for name, value in kept.items()}


def read_networks(path: Path, generators: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Networks to start another training from, as state dicts by name.

    Args:
        path: A run folder with a checkpoint or weights, or one file of weights.
        generators: Names of the generators; a file of another name belongs to the first.

    Raises:
        ArtifactError: nothing there, or damaged.
    """
    if path.is_dir() and (latest := checkpoint.load_latest(path)) is not None:
        networks: dict[str, dict[str, Tensor]] = latest[1]["networks"]
        return networks
    files = [weights_path(path, name) for name in generators] if path.is_dir() else [path]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ArtifactError(f"init {path} holds no checkpoint and no weights: give a run folder or a .safetensors file")
    try:
        loaded = {file.stem: safetensors.torch.load_file(str(file)) for file in files}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"init {path} is damaged, or not safetensors: {error}") from error
    return {stem if stem in generators else generators[0]: state for stem, state in loaded.items()}


def write_compression(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what a student was compressed from and how near it came."""
    write_whole(folder / COMPRESSION, json.dumps(facts, indent=2) + "\n")


def _read_compression(folder: Path) -> dict[str, Any]:
    """What a student was compressed from; empty for other runs, and before its training ended.

    Raises:
        ArtifactError: the file is damaged.
    """
    path = folder / COMPRESSION
    if not path.exists():
        return {}
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise ArtifactError(f"{path} is damaged: no JSON object; delete it and resume with gan-compress")
    return facts


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder: a second trainer in it is refused. The lock dies with its process, however that ends.

    Raises:
        UsageError: another process trains in it.
        GanEdgeError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a")
    except OSError as error:
        raise GanEdgeError(f"cannot write into {folder}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is training in {folder}: wait for it, or give another --out") from None
        yield


def check_unlocked(folder: Path) -> None:
    """Refuse a run folder that another process trains in, without making one. Raises as `locked` does."""
    if (folder / LOCK).exists():
        with locked(folder):
            pass


def weights_step(folder: Path, name: str) -> int | None:
    """The step of the weights that lie there; None where there are none, or damaged ones."""
    try:
        with safetensors.safe_open(str(weights_path(folder, name)), "pt") as file:
            return int((file.metadata() or {}).get("step", -1))
    except (OSError, SafetensorError, ValueError):
        return None


def write_weights(folder: Path, name: str, state: Mapping[str, Tensor], step: int) -> None:
    """Write one generator's weights, whole or not at all."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    write_whole(weights_path(folder, name), safetensors.torch.save(tensors, {"step": str(step)}))
