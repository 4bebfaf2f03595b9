"""How to train, whatever the variant: the settings, their defaults and their checks.

settings = Settings(data="digits", out=Path("runs/digits"), steps=2000)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ganedge.models.variant import check_types, require
from ganedge.runtime.errors import UsageError
from ganedge.train import run_folder
from ganedge.train.data import Options as DataOptions
from ganedge.train.metrics import FEWEST, Name
from ganedge.train.pictures import Fit

JUDGED = 5000
"""Pictures that are compared where nobody says how many."""

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
WeightGradients = Literal["auto", "library", "im2col"]
MemoryFormat = Literal["auto", "channels-last", "contiguous"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train, whatever the variant. A field's docstring is its help text on the command line."""

    out: Path
    """Run folder to write."""
    data: str = ""
    """Built-in set (digits, mnist, fashion-mnist, cifar10, celeba, circles), mnist:DIR, a folder of pictures (of pairs,
    of trainA and trainB, as the variant needs), or a .csv of path,label."""
    preset: str | None = None
    """A named set of this variant's options; options that are given win over it."""
    config: Path | None = None
    """Repeat the training of this config.json or run folder; presets and options that are given win over it."""
    init: Path | None = None
    """Start from the networks of this run folder, or from the generator in this .safetensors file."""
    classes: str = ""
    """Train on these classes only, separated by commas."""
    attributes: str = ""
    """A table that gives the pictures of --data attributes, for variants that learn them: a .csv with a header and the
    pictures' names first, or CelebA's list_attr_celeba.txt."""
    fraction: float = 1.0
    """Share of the data to use, more than 0, up to 1: a quick look."""
    memory: float = 4.0
    """GiB of decoded pictures to keep in memory, both sides of pairs and sets together; larger sets are read from disk
    as they are needed."""
    fit: Fit = "crop"
    """How pictures from files that are not square become squares: crop cuts the middle, pad adds what is missing by
    repeating the edge pixels, so that no colour comes in that the picture does not have, and stretch changes the
    proportions."""
    workers: int | None = None
    """Threads that decode pictures; one per core by default."""
    steps: int | None = None
    """Steps in all; epochs decide by default."""
    max_minutes: float | None = None
    """Stop after this many minutes, with everything saved."""
    seed: int = 0
    """Seed of all that is random, 0 or more."""
    device: Device = "auto"
    """Where to train: auto takes CUDA where there is one."""
    devices: int = 1
    """Devices or processes to train on; each takes its share of the batch. For several machines use torchrun, which
    needs no --devices. On CPUs BatchNorm sees each process's share alone."""
    precision: Precision = "auto"
    """Arithmetic: auto measures on this machine whether bf16 is faster than fp32, in at most 2 % of the training, where
    bf16 is known to keep the quality. A measurement is remembered, and can differ when repeated: name this,
    --weight-gradients and --memory-format for runs that must be the same bit for bit. Too short trainings and those
    with --compile take fp32."""
    weight_gradients: WeightGradients = "auto"
    """How wide strided convolutions compute their weight gradients in fp32 on a CPU: by PyTorch's library, by one
    matrix product (im2col), or as auto measures like --precision."""
    memory_format: MemoryFormat = "auto"
    """Order of weights and feature maps in memory: channels-last, contiguous (channels first, PyTorch's default), or as
    auto measures like --precision. Too short trainings and those with --compile take channels-last."""
    compile: bool = False
    """Compile the networks with torch.compile, for which it needs a C++ compiler: a minute or more at first, then fewer
    and larger kernels in each step. Slower on the CPUs it was tried on."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints; one is written at least every five minutes."""
    features: Literal["", Name] = ""
    """Measure FID, KID, precision and recall at every checkpoint, and keep the best one: by a small random network,
    which sees little but colour and texture, or by EfficientNet's or Inception's, which were trained on photographs.
    Only figures of the same network can be compared."""
    judged: int = JUDGED
    """Pictures that --features compares."""
    tensorboard: bool = False
    """Write events for TensorBoard into the run folder too."""
    download: bool = False
    """Fetch a built-in data set, or Inception's weights, from the internet if they are not here."""
    resume: bool = False
    """Go on with the run in the run folder."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work."""
        if not self.data and self.config is not None:
            raise UsageError(f"no data: give some, or take it from {self.config} too with Settings.repeat")
        if not self.data:
            raise UsageError("no data: give --data with a built-in set or a folder, or --config with an earlier run")
        check_types(self)
        require(0 < self.fraction <= 1, "fraction", self.fraction, "more than 0, up to 1")
        require(self.memory >= 0, "memory", self.memory, "0 or more")
        require(self.workers is None or self.workers >= 1, "workers", self.workers, "1 or more")
        require(self.devices >= 1, "devices", self.devices, "1 or more")
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "1 or more")
        require(self.max_minutes is None or self.max_minutes > 0, "max-minutes", self.max_minutes, "more than 0")
        require(0 <= self.seed < 2**63, "seed", self.seed, "0 or more, below 2^63")
        require(self.judged >= FEWEST, "judged", self.judged, f"{FEWEST} or more")
        require(self.checkpoint_every >= 1, "checkpoint-every", self.checkpoint_every, "1 or more")

    @classmethod
    def repeat(cls, config: Path, **given: Any) -> Settings:
        """The settings of an earlier run but for what is given, with its config to start from.

        Args:
            config: A run folder or a config.json.
            **given: Fields of this class, `out` among them.

        Raises:
            ArtifactError: not a run's config.
            UsageError: values that cannot work.
        """
        repeated = run_folder.read_settings(config, {item.name for item in fields(cls)})
        return cls(**{**repeated, **given, "config": config})

    @property
    def opening(self) -> DataOptions:
        """How to open the data."""
        classes = tuple(name.strip() for name in self.classes.split(",") if name.strip())
        return DataOptions(
            download=self.download,
            classes=classes,
            fraction=self.fraction,
            memory=self.memory,
            workers=self.workers,
            fit=self.fit,
            attributes=Path(self.attributes).expanduser() if self.attributes else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The settings as `config.json` holds them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
