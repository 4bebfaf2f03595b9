"""Distillation: the step in which a small generator learns from a large one, and the data it learns on.

    lesson = Lesson(teacher, PictureStudent, cache=2 * 2**30)
    loop.train(lesson.variant, options, settings, prepare=lesson.prepare)

The student's output is brought near the teacher's for the same inputs (Hinton et al. 2015, arXiv:1503.02531; for
GANs Aguinaldo et al. 2019, arXiv:1902.00159): L1 and a structural distance (Zhao et al. 2017, arXiv:1511.08861), the
features of a discriminator (Wang et al. 2018, arXiv:1711.11585, eq. 4), and its verdicts. What the teacher makes of a
picture is computed when it is first needed, of the whole picture, and kept on disk; the student learns on squares.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ganedge.models import Variant
from ganedge.models.noise import draw, rows
from ganedge.models.objectives import OBJECTIVES
from ganedge.models.student import TAUGHT, LatentConfig, StudentConfig
from ganedge.models.variant import Batch, Update
from ganedge.runtime.errors import GanEdgeError, InputError
from ganedge.runtime.inputs import to_port
from ganedge.runtime.latents import LatentStream
from ganedge.runtime.manifest import Interface
from ganedge.runtime.pictures import images
from ganedge.train import preview
from ganedge.train.data import EXAMPLES, Data
from ganedge.train.sources import Source

FOLDER = "teacher"
"""Folder of a run with the teacher's outputs for the training pictures; it can be deleted."""
HELD_BACK = 10
"""Of so many pictures one is not learned from, to measure on."""
MOST_HELD_BACK = 64
"""Pictures that are not learned from, at most."""
MOST_REAL = 2000
"""Real pictures to measure a distance to, at most."""
SCALES = 3
"""Scales of the structural distance, at most: each halves the pictures."""
WINDOW = 7
"""Side of the windows of the structural distance, pixels."""


class Teacher(Protocol):
    """A generator to learn from."""

    interface: Interface
    """What it takes and gives."""
    digest: str
    """sha256 that tells it from others."""

    def __call__(self, inputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """What it gives for arrays as its interface says, batch first; any number of items."""
        ...


class Distilled:
    """The step of a student: mixed into the classes of `ganedge.models.STUDENTS` by `Lesson`."""

    teacher: ClassVar[Teacher]
    start: ClassVar[Mapping[str, Tensor] | None] = None
    """Weights to start from; None: random ones."""

    def __init__(self: Any, config: StudentConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg] # It is mixed into a student.
        if self.start is not None:
            self.generator.load_state_dict(self.start)

    def step(self: Any, batch: Batch, step: int, update: Update) -> dict[str, Tensor]:  # noqa: ARG002 - the protocol's
        """Update the student, and the discriminator where there is one."""
        config: StudentConfig = self.config
        inputs, labels, taught = self.lesson(batch)
        output = config.to_unit(self.generator(*inputs))
        losses = {"l1": F.l1_loss(output, taught)}
        total = losses["l1"]

        # Update the student.
        if config.structure > 0 and output.ndim == 4:
            losses["structure"] = structural_distance(output, taught)
            total = total + config.structure * losses["structure"]
        judged = self.discriminator is not None
        if judged:
            verdict, features = self.discriminator(output, labels)
            with torch.no_grad():
                _, known = self.discriminator(taught, labels)
            pairs = zip(features, known, strict=True)
            losses["matching"] = torch.stack([F.l1_loss(own, other) for own, other in pairs]).mean()
            losses["loss_g"] = OBJECTIVES["hinge"].generator(verdict)
            total = total + config.matching * losses["matching"] + config.adversarial * losses["loss_g"]
        update("generator", total)

        # Update the discriminator.
        if judged:
            real = self.real(batch, taught)
            real_verdict, fake_verdict = (self.discriminator(each, labels)[0] for each in (real, output.detach()))
            losses["loss_d"] = OBJECTIVES["hinge"].discriminator(real_verdict, fake_verdict)
            update("discriminator", losses["loss_d"])
        return {name: value.detach() for name, value in losses.items()}


class PictureLesson(Distilled):
    """A student of pictures: inputs and what the teacher makes of them lie in the batch."""

    def lesson(self: Any, batch: Batch) -> tuple[tuple[Tensor, ...], None, Tensor]:
        """Inputs, no labels, and the teacher's outputs in -1 to 1."""
        return (batch[self.config.source_key],), None, self._to_unit(batch[TAUGHT])

    def real(self: Any, batch: Batch, taught: Tensor) -> Tensor:
        """What the discriminator takes for real, -1 to 1."""
        known: Tensor = self._to_unit(batch[self.config.real_key]) if self.config.real_key else taught
        return known

    def _to_unit(self: Any, pictures: Tensor) -> Tensor:
        """Pictures of a batch, which has all of them in the range of the inputs, in -1 to 1."""
        low, high = float(self.config.input_low), float(self.config.input_high)
        return (pictures.float() - low) * (2 / (high - low)) - 1


class LatentLesson(Distilled):
    """A student of latents, which are drawn anew in every step."""

    def lesson(self: Any, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor]:
        """Latents and labels, the labels, and what the teacher makes of them in -1 to 1."""
        config: LatentConfig = self.config
        key = "images" if config.has_data else "latents"
        count, device = len(batch[key]), batch[key].device
        latent = draw(config.noise, count, config.latent, device)
        latent = latent[..., None, None] if config.maps else latent
        labels: Tensor | None = None
        if config.classes:
            classes = len(config.classes)
            drawn = rows(count, lambda n: torch.randint(classes, (n,), device=device))
            labels = batch.get("labels", drawn)
        inputs = (latent,) if labels is None else (latent, labels)
        with torch.autocast("cpu", enabled=False):
            taught = self.teacher([tensor.cpu().numpy() for tensor in inputs])
        return inputs, labels, config.to_unit(torch.from_numpy(taught).to(device))

    def real(self: Any, batch: Batch, taught: Tensor) -> Tensor:
        """What the discriminator takes for real, -1 to 1."""
        return self.config.to_unit(batch["images"]) if self.config.has_data else taught


def structural_distance(output: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM, averaged over up to three scales (Wang et al. 2004, eq. 13, over windows of equal weights).

    Args:
        output: Pictures in -1 to 1, `[N, C, H, W]`.
        target: As many of the same shape.

    Returns:
        0 where they are equal, up to 2.
    """
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    distances: list[Tensor] = []
    a, b = output + 1, target + 1  # Black is zero, as the formula's luminance term needs it.
    for scale in range(SCALES):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        if min(a.shape[2:]) < WINDOW:
            break
        means = F.avg_pool2d(torch.cat((a, b, a * a, b * b, a * b), 1), WINDOW, 1)
        mean_a, mean_b, square_a, square_b, product = means.chunk(5, 1)
        covariance = product - mean_a * mean_b
        variances = square_a - mean_a.square() + square_b - mean_b.square()
        top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        bottom = (mean_a.square() + mean_b.square() + c1) * (variances + c2)
        distances.append(1 - (top / bottom).mean())
    return torch.stack(distances).mean() if distances else output.new_zeros(())


class Lesson:
    """A teacher with what a training needs of it: the variant to train, and the data.

    Args:
        teacher: Whom to learn from.
        student: Its networks.
        cache: Bytes that its outputs may take on disk; what does not fit is computed again each time.
        source_key: Where a batch holds the pictures that go in.
        real_key: Where it holds real outputs; empty where it holds none.
        start: Weights of the generator to start from; None: random ones.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: type[Variant],
        cache: int,
        source_key: str = "images",
        real_key: str = "",
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._teacher = teacher
        self._student = student
        self._start = start
        self._cache = cache
        self._source_key = source_key
        self._real_key = real_key
        self.unseen: NDArray[np.uint8] | None = None
        """Pictures that were not learned from, uint8 `[N, H, W, C]`; None before `prepare`, and of latents."""
        self.real: NDArray[np.uint8] | None = None
        """Real outputs of the data, uint8 `[N, H, W, C]`, where it holds any."""

    @property
    def variant(self) -> type[Variant]:
        """The student with the step that learns from this teacher."""
        step = PictureLesson if self._teacher.interface.noise is None else LatentLesson
        own = {"teacher": self._teacher, "start": self._start}
        bound: type[Variant] = type(self._student.__name__, (step, self._student), own)
        return bound

    def prepare(self, items: Data, folder: Path) -> Data:
        """Add the teacher's outputs to the data, and hold some pictures back.

        Args:
            items: As they were opened.
            folder: The run folder.

        Raises:
            InputError: fewer than two pictures.
        """
        if self._teacher.interface.noise is None:
            return self._with_outputs(items, folder)
        self._save_teachers_sample(folder)
        if items.wants.kind == "images":
            self.real = _spread(items, "images", MOST_REAL)
        return items

    def _with_outputs(self, items: Data, folder: Path) -> Data:
        """The data with the teacher's outputs beside the inputs, without those that are held back, and examples."""
        key = self._source_key
        index = next(number for number, source in enumerate(items.sources) if key in source.keys)
        source = items.sources[index]
        count = len(source)
        if count < 2:
            raise InputError(f"data {items.spec!r}: {count} picture, give 2 or more: one is held back to measure on")
        held = torch.linspace(0, count - 1, min(MOST_HELD_BACK, max(1, count // HELD_BACK))).long()
        kept = torch.ones(count, dtype=torch.bool)
        kept[held] = False
        taught = Taught(source, key, self._teacher, folder / FOLDER, self._cache)
        sources = list(items.sources)
        sources[index] = Part(taught, kept.nonzero().flatten())
        inputs = source.take(held)
        self.unseen = inputs[key].permute(0, 2, 3, 1).contiguous().cpu().numpy()
        if self._real_key:
            self.real = _spread(items, self._real_key, MOST_REAL)
        few = inputs[key][:EXAMPLES]
        low, high = items.wants.range
        outputs = torch.from_numpy(translated(self._teacher, self.unseen[:EXAMPLES])).permute(0, 3, 1, 2)
        examples = {key: few.float() * ((high - low) / 255) + low, TAUGHT: self._in_range(outputs)}
        return replace(items, sources=tuple(sources), examples=examples)

    def _in_range(self, pictures: Tensor) -> Tensor:
        low, high = self._teacher.interface.output.range or (-1.0, 1.0)
        return pictures.float() * ((high - low) / 255) + low

    def _save_teachers_sample(self, folder: Path) -> None:
        """What the teacher draws from the noise of the samples, to hold beside them."""
        path, interface = folder / "samples" / "teacher.png", self._teacher.interface
        if path.exists() or interface.noise is None:
            return
        count = preview.POINTS if interface.kind == "latent-to-points" else preview.GRID**2
        inputs = latents(interface, count, preview.SEED)
        preview.save(self._teacher(inputs), interface, path, None, preview.GRID)


def latents(interface: Interface, count: int, seed: int) -> list[NDArray[Any]]:
    """Latents of a generator, and labels where it takes them, each class in turn."""
    assert interface.noise is not None
    inputs: list[NDArray[Any]] = [LatentStream(interface.noise, interface.inputs[0].item_shape, seed).take(count)]
    if interface.classes:
        inputs.append(np.arange(count) % len(interface.classes))
    return inputs


def translated(teacher: Teacher, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What a teacher makes of pictures, both uint8 `[N, H, W, C]`."""
    port = teacher.interface.output
    assert port.range is not None
    output = teacher([to_port(pictures, teacher.interface.inputs[0])])
    levels: NDArray[np.uint8] = images.to_pixels(output, port.range, port.layout)
    return levels


class Taught:
    """Pictures with what the teacher makes of each, which is kept in a file once it was computed.

    A row of the file is the CRC-32 of the output, then the output, uint8 `[C, H, W]`. A row that is not whole, or was
    never written, is computed again.

    Args:
        inner: The inputs.
        key: How a batch calls them.
        teacher: Translates them.
        folder: Where the file goes.
        limit: Bytes that it may take.
    """

    def __init__(self, inner: Source, key: str, teacher: Teacher, folder: Path, limit: int) -> None:
        self.keys = (*inner.keys, TAUGHT)
        self.labels = inner.labels
        self._inner = inner
        self._key = key
        self._teacher = teacher
        first = self._translate(inner.take(torch.tensor([0]))[key])[0]
        self._shape = first.shape
        self._row = 4 + first.size
        self._rows = min(len(inner), limit // self._row)
        path = folder / f"{teacher.digest[:12]}-{'x'.join(map(str, self._shape))}.u8"
        self._file: NDArray[np.uint8] | None = None
        if self._rows:
            _reserve(path, self._rows * self._row)
            self._file = np.memmap(path, np.uint8, "r+", shape=(self._rows, self._row))

    @property
    def skipped(self) -> Sequence[str]:
        """Files that could not be read so far, each with its reason."""
        return self._inner.skipped

    def __len__(self) -> int:
        return len(self._inner)

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """The items at these indices, and what the teacher makes of them."""
        taken = self._inner.take(indices)
        pairs = zip(indices.tolist(), taken[self._key], strict=True)
        taught = np.stack([self._output(index, picture) for index, picture in pairs])
        return {**taken, TAUGHT: torch.from_numpy(taught)}

    def prepare(self, indices: Tensor) -> None:
        """Begin to read items that will be taken next."""
        self._inner.prepare(indices)

    def move(self, device: torch.device) -> None:
        """Move the inputs; what the teacher made stays on disk."""
        self._inner.move(device)

    def _output(self, index: int, picture: Tensor) -> NDArray[np.uint8]:
        row = self._file[index] if self._file is not None and index < self._rows else None
        if row is not None:
            kept = row[4:].tobytes()
            if row[:4].tobytes() == _checksum(kept):
                whole: NDArray[np.uint8] = np.frombuffer(kept, np.uint8).reshape(self._shape)
                return whole
        made: NDArray[np.uint8] = self._translate(picture[None])[0]
        if row is not None:
            row[4:] = made.reshape(-1)
            row[:4] = np.frombuffer(_checksum(made.tobytes()), np.uint8)
        return made

    def _translate(self, pictures: Tensor) -> NDArray[np.uint8]:
        """uint8 `[N, C, H, W]` to uint8 `[N, C', H', W']`."""
        made: NDArray[np.uint8] = translated(self._teacher, pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        return np.ascontiguousarray(made.transpose(0, 3, 1, 2))


class Part:
    """Some items of a source."""

    def __init__(self, inner: Source, chosen: Tensor) -> None:
        self.keys = inner.keys
        self.labels = None if inner.labels is None else inner.labels[chosen]
        self._inner = inner
        self._chosen = chosen

    @property
    def skipped(self) -> Sequence[str]:
        """Files that could not be read so far, each with its reason."""
        return self._inner.skipped

    def __len__(self) -> int:
        return len(self._chosen)

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """The items at these indices."""
        return self._inner.take(self._chosen[indices])

    def prepare(self, indices: Tensor) -> None:
        """Begin to read items that will be taken next."""
        self._inner.prepare(self._chosen[indices])

    def move(self, device: torch.device) -> None:
        """Move what is held in memory to the device."""
        self._inner.move(device)


def _reserve(path: Path, size: int) -> None:
    """Make a file of this size that no later write can find the disk too full for: a memory map would crash then.

    Raises:
        GanEdgeError: the disk is too full already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("ab") as file:  # Several processes share it: none may empty it.
            os.truncate(path, size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise GanEdgeError(
            f"{path.parent} has no room for {size / 1e6:.0f} MB of the teacher's outputs ({error.strerror}): "
            "give a smaller --cache, 0 keeps none"
        ) from error


def _checksum(data: bytes) -> bytes:
    """Of a row; never that of a row of zeros, which a new file is full of."""
    return (zlib.crc32(data) | 1).to_bytes(4, "little")


def _spread(items: Data, key: str, most: int) -> NDArray[np.uint8]:
    """Pictures of the data, evenly chosen, uint8 `[N, H, W, C]`."""
    count = items.count(key)
    chosen = torch.linspace(0, count - 1, min(count, most)).long()
    taken: NDArray[np.uint8] = items.take(key, chosen).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return taken
