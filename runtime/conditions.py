"""Values of a generator's further inputs: class, mask, vectors, pictures beside the first, and noise.

    conditions = Conditions(label="zebra", style="style.npy", seed=3)
    arrays = InputStream(interface, conditions, seed=0, truncation=None).take(4)

What a caller leaves out is drawn from the seed where the manifest says how; otherwise it has to be given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, UsageError
from .latents import LatentStream, seed_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .manifest import Interface, Port


TRUNCATION = "truncation"
"""Name of a vector of one number with which a generator of latents truncates them itself, as StyleGAN does in W."""
MOST_TRUNCATION = 2.0
"""The most that such a number may be; 1 is as trained, and 0 the mean."""


@dataclass(frozen=True)
class Conditions:
    """Values of further inputs that a caller gives beside the latent or the picture."""

    label: int | str | None = None
    """A class: its number or its name."""
    style: Any = None
    """Values of a vector input: an array, numbers with commas or a .npy file; of a second picture: a picture."""
    mask: Any = None
    """A mask as large as the picture: a path, a Pillow image or an array; white is 1."""
    seed: int = 0
    """Of vectors and noise that are drawn for a picture, 0 to 2³² - 1; those of a latent have the latent's seed."""


def class_number(interface: Interface, label: int | str) -> int:
    """The number of a class, from its number or name.

    Raises:
        UsageError: no such class, or a generator without classes.
    """
    names = interface.classes
    if not names:
        raise UsageError(f"label {label}: this generator is not conditional, it has no classes")
    if label in names:
        return names.index(str(label))
    number = int(label) if isinstance(label, int) or str(label).isdigit() else -1
    if 0 <= number < len(names):
        return number
    named = "" if all(name.isdigit() for name in names) else f", or a name: {', '.join(names[:12])}"
    raise UsageError(f"label {label} is out of range: this generator has classes 0 to {len(names) - 1}{named}")


def refuse_unused(interface: Interface, conditions: Conditions) -> None:
    """Refuse values for inputs that this generator does not have.

    Raises:
        UsageError: a label, style or mask that has no input.
    """
    roles = {port.role for port in interface.inputs[1:] if not is_truncation(port, interface)}
    if conditions.label is not None and "label" not in roles:
        raise UsageError(f"label {conditions.label}: this generator is not conditional, it has no classes")
    if conditions.style is not None and not roles & {"vector", "image"}:
        raise UsageError("style: this generator takes no style vector and no second picture; leave it out")
    if conditions.mask is not None and "mask" not in roles:
        raise UsageError("mask: this generator takes no mask; leave it out")


def is_truncation(port: Port, interface: Interface) -> bool:
    """Whether an input says how far latents stay from their mean inside of the generator."""
    single = port.role == "vector" and port.name == TRUNCATION and port.item_shape == (1,)
    return single and interface.noise is not None


class InputStream:
    """Every input of a generator of latents, in batches: the same seed gives the same items in any batches.

    Args:
        interface: What the generator takes; its first input is a latent.
        conditions: What the caller says beside it.
        seed: Of the latents, 0 to 2³² - 1; None draws new ones.
        truncation: See `LatentStream`; where the generator has an input `truncation`, what goes into that instead, 0 to
            2. There None stands for 1, as trained, and latents are not clipped.

    Raises:
        UsageError: a value out of range, one for an input that is not there, or none where one is needed.
    """

    def __init__(
        self, interface: Interface, conditions: Conditions, seed: int | None, truncation: float | None
    ) -> None:
        if interface.noise is None:
            raise UsageError(f"this generator turns {interface.kind.replace('-', ' ')}: it has no latents to sample")
        inside = any(is_truncation(port, interface) for port in interface.inputs)
        clipped = None if inside else truncation
        self._latents = LatentStream(interface.noise, interface.inputs[0].item_shape, seed, clipped)
        self._further = FurtherStream(interface, conditions, seed, truncation)

    def take(self, count: int) -> list[NDArray[np.generic]]:
        """The next `count` items: one array per input, in the interface's order."""
        return [self._latents.take(count), *self._further.take(count)]


class FurtherStream:
    """Every input beside the first, in batches: the same seed gives the same items in any batches.

    Args:
        interface: What the generator takes.
        conditions: What the caller says; classes come in turn, and vectors and noise are drawn, where it says nothing.
        seed: Of what is drawn, 0 to 2³² - 1; None draws new ones.
        truncation: What goes into an input of that name; None stands for 1.

    Raises:
        UsageError: a value for an input that is not there, or none where one is needed.
    """

    def __init__(
        self, interface: Interface, conditions: Conditions, seed: int | None, truncation: float | None = None
    ) -> None:
        refuse_unused(interface, conditions)
        self._sources = [
            _Further(port, interface, conditions, None if seed is None else seed_of(index, seed), truncation)
            for index, port in enumerate(interface.inputs[1:], 1)
        ]

    def take(self, count: int) -> list[NDArray[np.generic]]:
        """The next `count` items: one array per input beside the first, in the interface's order."""
        return [source.take(count) for source in self._sources]


class _Further:
    """The values of one input beside the first: classes in turn, one value for all, or new ones for each item."""

    def __init__(
        self, port: Port, interface: Interface, conditions: Conditions, seed: int | None, truncation: float | None
    ) -> None:
        if port.is_picture:
            raise UsageError(f"this generator needs a picture, {port.name}, beside its first: use run() with arrays")
        self._classes = len(interface.classes) if port.role == "label" else 0
        self._fixed: NDArray[np.generic] | None = None
        self._stream: LatentStream | None = None
        self._next = 0
        if port.role == "label":
            if conditions.label is not None:
                self._fixed = np.array([class_number(interface, conditions.label)], np.int64)
        elif is_truncation(port, interface):
            factor = 1.0 if truncation is None else truncation
            if not 0 <= factor <= MOST_TRUNCATION:
                raise UsageError(f"truncation {factor} is out of range: give 0 to {MOST_TRUNCATION:g}")
            self._fixed = np.full((1, 1), factor, np.float32)
        elif port.role == "vector" and conditions.style is not None:
            self._fixed = read_vector(port, conditions.style)[None]
        else:
            self._stream = drawn(port, port.item_shape, seed)

    def take(self, count: int) -> NDArray[np.generic]:
        begin, self._next = self._next, self._next + count
        if self._fixed is not None:
            return np.repeat(self._fixed, count, axis=0)
        if self._stream is not None:
            return self._stream.take(count)
        return np.arange(begin, begin + count, dtype=np.int64) % self._classes


def drawn(port: Port, shape: tuple[int, ...], seed: int | None) -> LatentStream:
    """A stream of values for a vector or noise that the caller left out.

    Raises:
        UsageError: the manifest does not say what it is drawn from.
    """
    if port.distribution is None:
        size = " × ".join(map(str, port.item_shape))
        raise UsageError(f"this generator needs {port.name}, {size} numbers: give style (--style), numbers or a .npy")
    return LatentStream(port.distribution, shape, seed)


def read_vector(port: Port, value: Any) -> NDArray[np.float32]:
    """The values of a vector input, float32 of its shape without the batch.

    Args:
        port: The input.
        value: An array or sequence of numbers, numbers with commas, or the path of a .npy file.

    Raises:
        InputError: a file that cannot be read, another number of values, or values that are not finite.
    """
    name = f"style {value}" if isinstance(value, str | Path) else "style"
    try:
        if isinstance(value, str | Path) and Path(value).suffix == ".npy":
            array = np.load(Path(value), allow_pickle=False)
        else:
            array = np.asarray(str(value).split(",") if isinstance(value, str | Path) else value)
        numbers = array.astype(np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{name}: give numbers with commas, or a .npy file of numbers") from error
    shape = port.item_shape
    if numbers.size != int(np.prod(shape)):
        raise InputError(f"{name}: {numbers.size} numbers, and {port.name} takes {' × '.join(map(str, shape))}")
    if not np.isfinite(numbers).all():
        raise InputError(f"{name}: NaN or infinite values")
    vector: NDArray[np.float32] = numbers.reshape(shape)
    return vector
