"""Reports, sample pictures, measurements and checkpoints of a training, and its weights to export.

It refuses to go on with losses or weights that are not finite and with generators that collapsed, so that whatever lies
in the run folder is good.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ganedge.models.variant import Arranged, Gridded, Translator
from ganedge.runtime.cli.progress import Progress
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import Interface
from ganedge.train import checkpoint, preview, run_folder
from ganedge.train.data import describe_skipped
from ganedge.train.record import Record

if TYPE_CHECKING:
    from ganedge.train.examiner import Examiner
    from ganedge.train.trainer import Trainer

REPORT_SECONDS = 2.0
"""Time between two reports of the losses: reading them waits for the device."""
CHECKPOINT_SECONDS = 300.0
"""A checkpoint is written at least this often."""
KEEP = 2
"""Last checkpoints kept; the best one is kept too."""
MATURE_STEPS = 200
"""Before this a deep generator may rightly give almost the same for all noise: its weights begin small."""
SETTLED = 1000
"""Steps before which a translator's averaged generator may give flat pictures."""
COLLAPSED = 1e-4
"""Standard deviation over the samples, or over a translated picture, in units of the range: below it is collapse."""
DISTINCT = 0.01
"""Standard deviation over the inputs, in the same units, from which other inputs have to give other pictures."""
FEWEST = 16
"""Pictures that are drawn at least to see whether all are the same."""

Columns = list[NDArray[np.generic]]
"""What one generator did: what it drew, or inputs, outputs and what is held against them."""


class Reporter:
    """Watches one training.

    Args:
        trainer: The training.
        deadline: When it ends at the latest, of the monotonic clock.

    Raises:
        UsageError: data that `--features` cannot compare.
        MissingExtra: what `--features` or `--tensorboard` needs is not installed.
    """

    def __init__(self, trainer: Trainer, deadline: float) -> None:
        self._trainer = trainer
        self._deadline = deadline
        self._losses = Losses()
        self._has_reported = False
        self._drawn: tuple[int, dict[str, Columns]] = (-1, {})
        self._sampled = -1
        self._saved_at = time.monotonic()
        self._folder = trainer.settings.out
        self._progress = Progress(trainer.total, "images", trainer.step, "step ")
        self._examiner = _make_examiner(trainer)
        self._record = Record(self._folder, trainer.step, trainer.settings.tensorboard)

    def __enter__(self) -> Reporter:
        self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._record.__exit__(kind, error, trace)
        self._progress.__exit__(kind, error, trace)

    def after_step(self, losses: Mapping[str, Tensor]) -> None:
        """Do what is due after a step.

        Args:
            losses: The step's.

        Raises:
            GanEdgeError: a loss or weight that is not finite, a generator that collapsed, a disk that is full.
        """
        trainer, settings = self._trainer, self._trainer.settings
        self._losses.add(losses, trainer.config.batch)

        # Report the losses, and make sure they are numbers: always before a picture, for its plot.
        sample = self._is_sample_due()
        if self._losses.age >= REPORT_SECONDS or trainer.step == trainer.total or sample:
            self._report(last=trainer.step == trainer.total)

        # Keep what was done.
        if sample:
            self._write_sample()
        late = time.monotonic() - self._saved_at > CHECKPOINT_SECONDS
        if trainer.step % settings.checkpoint_every == 0 or late:
            self._check_finite(self._losses.peek())
            self._save()
            self._saved_at = time.monotonic()

    def catch_up(self) -> None:
        """Measure the checkpoint that training goes on from, if a kill came between saving and measuring it."""
        if self._trainer.step and self._examiner is not None and not self._record.holds("fid"):
            self._measure()

    def finish(self) -> None:
        """Report and keep what the last report and the last checkpoint left out. Raises as `after_step` does."""
        if self._losses.count:
            self._report(last=True)
        if self._sampled != self._trainer.step:
            self._write_sample()
        self._save()

    def _is_sample_due(self) -> bool:
        """Whether the last step ended a stretch after which a picture is wanted."""
        trainer, config = self._trainer, self._trainer.config
        if config.sample_unit == "steps":
            return trainer.step % config.sample_every == 0
        stretch = config.sample_every * len(trainer.items)  # In items: an epoch may end within a step.
        return trainer.step * config.batch // stretch > (trainer.step - 1) * config.batch // stretch

    def _report(self, last: bool) -> None:
        """Show and record the losses since the last report, make sure they are numbers, and name unreadable files."""
        trainer = self._trainer
        for line in describe_skipped(trainer.items.news()):
            note(line)
        means, rate = self._losses.read()
        self._check_finite(means)
        left = min((trainer.total - trainer.step) * trainer.config.batch / rate, self._deadline - time.monotonic())
        shown = " ".join(f"{name} {value:.3f}" for name, value in means.items())
        self._progress.show(trainer.step, shown, rate, max(left, 0.0), last or not self._has_reported)
        self._has_reported = True
        self._record.write({**self._place(), **means, **self._rates(), "images_per_s": round(rate, 2)})

    def _rates(self) -> dict[str, float]:
        """The learning rate, or that of each optimizer where they differ."""
        rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in self._trainer.optimizers.items()}
        if len(set(rates.values())) == 1:
            return {"lr": next(iter(rates.values()))}
        return {f"lr_{name.replace('-', '_')}": rate for name, rate in rates.items()}

    def _place(self) -> dict[str, float]:
        """Where training is."""
        trainer = self._trainer
        return {"step": trainer.step, "epoch": round(trainer.step * trainer.config.batch / len(trainer.items), 4)}

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            self._give_up(bad[0])

    def _give_up(self, what: str) -> NoReturn:
        """Stop because something is NaN or infinite, and say what is left."""
        raise GanEdgeError(
            f"{what} is no longer a finite number at step {self._trainer.step}; {self._kept()}. "
            "Train with a lower learning rate or --precision fp32 into another --out"
        )

    def _kept(self) -> str:
        """Name the last checkpoint, for messages."""
        last = checkpoint.steps(self._folder)
        return f"the checkpoint of step {last[-1]} is the last good one" if last else "no checkpoint was reached"

    def _write_sample(self) -> None:
        """Write every generator's samples of the fixed noise or examples, and the plot of the losses."""
        trainer, samples = self._trainer, self._folder / "samples"
        for name, columns in self._look_at_generators().items():
            path, interface = samples / f"{name}-{trainer.step:08d}.png", trainer.interfaces[name]
            if isinstance(trainer.gan, Translator):
                order = trainer.gan.strip_order if isinstance(trainer.gan, Arranged) else range(len(columns))
                preview.save_strips([columns[index] for index in order], interface, path)
            else:
                shown = columns[0] if interface.output.role == "points" else columns[0][: self._grid**2]
                preview.save(shown, interface, path, self._real_points(), self._grid)
            self._record.picture(name, path, trainer.step)
        if self._record.path.exists():
            preview.plot_losses(self._record.path, samples / "losses.png")
        self._sampled = trainer.step

    @property
    def _grid(self) -> int:
        """Pictures in a row of a sample, and rows."""
        config = self._trainer.config
        return config.grid if isinstance(config, Gridded) else preview.GRID

    def _look_at_generators(self) -> dict[str, Columns]:
        """What the generators to export make of the fixed noise or examples, after making sure that it is good.

        The generators under training are looked at too, where they are others: their average shows a collapse late.

        Raises:
            GanEdgeError: it is not finite, or the same for all inputs.
        """
        trainer = self._trainer
        if self._drawn[0] == trainer.step:
            return self._drawn[1]
        drawn = self._draw(trainer.generators)
        self._check_outputs(drawn)
        if self._is_mature and trainer.config.ema:
            self._check_outputs(self._draw(trainer.gan.networks))
        self._drawn = (trainer.step, drawn)
        return drawn

    def _draw(self, networks: Mapping[str, nn.Module]) -> dict[str, Columns]:
        """What generators make of the fixed noise or examples."""
        trainer, gan = self._trainer, self._trainer.gan
        device, count = trainer.fabric.device, max(self._grid**2, FEWEST)
        if not isinstance(gan, Translator):
            return {
                name: [preview.draw(networks[name], interface, device, count)]
                for name, interface in trainer.interfaces.items()
            }
        assert trainer.items.examples is not None
        generators = {name: networks[name] for name in trainer.interfaces}
        return {name: preview.strips(gan, name, generators, trainer.items.examples, device) for name in generators}

    @property
    def _is_mature(self) -> bool:
        """Whether the training has run long enough to check the generator for collapse."""
        translates = isinstance(self._trainer.gan, Translator)
        return self._trainer.step >= (SETTLED if translates else MATURE_STEPS)

    def _check_outputs(self, drawn: Mapping[str, Columns]) -> None:
        """Make sure that outputs are finite and differ."""
        step = self._trainer.step
        for name, columns in drawn.items():
            if not all(np.isfinite(column).all() for column in columns):
                self._give_up(f"what the {name} gives")
            if self._is_mature and collapsed(columns, self._trainer.interfaces[name]):
                raise GanEdgeError(
                    f"{name} gives the same output for all inputs at step {step}: it has collapsed; {self._kept()}. "
                    "Train with a lower learning rate, another --objective or another --seed into another --out"
                )

    def _real_points(self) -> NDArray[np.generic] | None:
        """The points of the data set, where it holds points."""
        items = self._trainer.items
        if items.wants.kind != "points":
            return None
        return items.take("points", torch.arange(len(items))).cpu().numpy()

    def _save(self) -> None:
        """Write a checkpoint, and the weights to export; nothing that is not finite or collapsed is ever written."""
        trainer = self._trainer
        if trainer.saved == trainer.step:
            return
        state = trainer.state()
        for name, weights in [*state["networks"].items(), *state["averages"].items()]:
            if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
                self._give_up(f"a weight of the {name}")
        if self._is_mature:
            self._look_at_generators()
        checkpoint.save(self._folder, trainer.step, state, KEEP)
        write_weights(trainer)
        trainer.saved = trainer.step
        self._measure()

    def _measure(self) -> None:
        """Measure what was saved: afterwards, because it takes a while and can fail."""
        trainer = self._trainer
        if self._examiner is None:
            return
        figures = self._examiner(trainer.generators)
        terms = f"{trainer.settings.features}, {trainer.settings.judged} pictures"
        checkpoint.note_best(self._folder, trainer.step, figures["fid"], terms)
        self._record.write({**self._place(), **figures})
        note(f"step {trainer.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def collapsed(columns: Columns, interface: Interface) -> bool:
    """Whether a generator gives the same whatever goes in, or pictures of one colour for pictures.

    Args:
        columns: What it drew; or what went in, what came out and perhaps more, float `[N, ...]` each.
        interface: Says the range of values.
    """
    low, high = interface.output.range or (-1.0, 1.0)
    least = COLLAPSED * (high - low)
    if len(columns) == 1:
        return bool(columns[0].std(axis=0).max() < least)
    inputs, outputs = columns[:2]
    flat = outputs.std(axis=(2, 3)).max() < least
    distinct = inputs.std(axis=0).max() > DISTINCT * (high - low)
    return bool(flat or (distinct and outputs.std(axis=0).max() < least))


def write_weights(trainer: Trainer) -> None:
    """Write the weights to export, unless those of this step are there."""
    for name, network in trainer.generators.items():
        if run_folder.weights_step(trainer.settings.out, name) != trainer.step or trainer.saved != trainer.step:
            run_folder.write_weights(trainer.settings.out, name, network.state_dict(), trainer.step)


def _make_examiner(trainer: Trainer) -> Examiner | None:
    settings = trainer.settings
    if not settings.features:
        return None
    from ganedge.train.examiner import Examiner  # Here, because torchmetrics takes seconds to import.

    return Examiner(
        trainer.gan, trainer.items, settings.features, settings.judged, trainer.fabric.device, settings.download
    )


class Losses:
    """Sums of the losses since they were last read, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self._restart()

    @property
    def count(self) -> int:
        """Items since the last reading."""
        return self._items

    def _restart(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._items = 0
        self._since = time.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last reading."""
        return time.monotonic() - self._since

    def add(self, losses: Mapping[str, Tensor], items: int) -> None:
        """Add the losses of one step."""
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.float()
            self._counts[name] = self._counts.get(name, 0) + 1
        self._items += items

    def peek(self) -> dict[str, float]:
        """Mean of each loss since the last reading."""
        return {name: value.item() / self._counts[name] for name, value in self._sums.items()}

    def read(self) -> tuple[dict[str, float], float]:
        """Mean of each loss and items per second since the last reading, and start again."""
        means = self.peek()
        rate = self._items / max(self.age, 1e-9)
        self._restart()
        return means, rate
