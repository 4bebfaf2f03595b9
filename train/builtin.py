"""Data sets by name: small ones that come with scikit-learn, and downloads of torchvision.

pictures, labels, names = BUILT_IN["mnist"](Path("folder/with/idx"), download=False)
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ganedge.runtime.errors import InputError, UsageError
from ganedge.runtime.files import cache_folder

CIRCLES = "circles"
"""The built-in set of points."""
CELEBA = "celeba"
"""The built-in set that is a folder of pictures."""
LATENTS = "latents"
"""No data: what learns from a teacher draws its latents."""
DIGITS = tuple("0123456789")


class Labelled(NamedTuple):
    """Pictures and their classes."""

    pictures: np.ndarray
    """uint8 `[N, H, W]` or `[N, H, W, 3]`."""
    labels: np.ndarray
    """int64 `[N]`."""
    names: tuple[str, ...]
    """Of the classes."""


def points() -> np.ndarray:
    """The inner circle of scikit-learn's `make_circles(2000, noise=0)`: 1000 points at radius 0.8, float32 `[N, 2]`."""
    from sklearn.datasets import make_circles

    placed, inner = make_circles(2000, noise=0, shuffle=False)
    circle: np.ndarray = placed[inner == 1].astype(np.float32)
    return circle


def _digits(folder: Path | None, download: bool) -> Labelled:  # noqa: ARG001 - nothing to download
    """scikit-learn's 1797 handwritten digits, 8×8, grey levels 0 to 16; they come with the package."""
    if folder is not None:
        raise UsageError(f"data 'digits:{folder}': digits are built in, write just digits")
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return Labelled(np.rint(loaded.images * (255 / 16)).astype(np.uint8), loaded.target.astype(np.int64), DIGITS)


def _mnist(folder: Path | None, download: bool) -> Labelled:
    """MNIST's 60000 training pictures, 28×28 grey: from idx files in `folder`, or through torchvision."""
    return _like_mnist("mnist", "MNIST", DIGITS, folder, download)


def _fashion(folder: Path | None, download: bool) -> Labelled:
    """Fashion-MNIST's 60000 training pictures, 28×28 grey: from idx files in `folder`, or through torchvision."""
    names = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
    return _like_mnist("fashion-mnist", "FashionMNIST", names, folder, download)


def _cifar10(folder: Path | None, download: bool) -> Labelled:
    """CIFAR-10's 50000 training pictures, 32×32 colour, through torchvision."""
    loaded = _torchvision("cifar10", "CIFAR10", folder, download)
    return Labelled(np.asarray(loaded.data), np.asarray(loaded.targets, np.int64), tuple(loaded.classes))


def celeba(folder: Path | None, download: bool) -> Path:
    """The folder with CelebA's aligned faces, through torchvision.

    Raises:
        UsageError: it is not here and may not be downloaded.
        InputError: it cannot be downloaded.
    """
    root = folder or cache_folder()
    _torchvision(CELEBA, "CelebA", root, download, split="all")
    return root / "celeba" / "img_align_celeba"


BUILT_IN: dict[str, Callable[[Path | None, bool], Labelled]] = {
    "digits": _digits,
    "mnist": _mnist,
    "fashion-mnist": _fashion,
    "cifar10": _cifar10,
}
"""Sets of pictures that fit in memory, by name, with a function that reads each from the folder of its files."""


def _like_mnist(name: str, cls: str, names: tuple[str, ...], folder: Path | None, download: bool) -> Labelled:
    if folder is None:
        loaded = _torchvision(name, cls, None, download, train=True)
        return Labelled(loaded.data.numpy(), loaded.targets.numpy().astype(np.int64), names)
    pictures = read_idx(folder, "train-images-idx3-ubyte", name)
    labels = read_idx(folder, "train-labels-idx1-ubyte", name).astype(np.int64)
    if len(labels) != len(pictures) or labels.max(initial=0) >= len(names):
        raise InputError(f"data '{name}:{folder}': the labels do not fit the {len(pictures)} pictures")
    return Labelled(pictures, labels, names)


def _torchvision(name: str, cls: str, folder: Path | None, download: bool, **given: Any) -> Any:
    """A data set of torchvision from the cache, or fetched into it."""
    import torchvision.datasets

    root = folder or cache_folder()
    try:
        return getattr(torchvision.datasets, cls)(str(root), download=download, **given)
    except (RuntimeError, OSError) as error:
        if download:
            raise InputError(f"{name} could not be downloaded to {root}: {error}") from error
        raise UsageError(
            f"data {name!r} is not in {root}: add --download to fetch it, or give {name}:DIR for files you have"
        ) from error


def read_idx(folder: Path, stem: str, name: str) -> np.ndarray:
    """Read one idx file (http://yann.lecun.com/exdb/mnist), gzipped or not: magic, sizes, then bytes."""
    for path in (folder / stem, folder / f"{stem}.gz", folder / "raw" / stem, folder / "MNIST" / "raw" / stem):
        if path.is_file():
            break
    else:
        raise UsageError(f"data '{name}:{folder}': no {stem} or {stem}.gz in that folder")
    dimensions = 3 if "idx3" in stem else 1
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, *sizes = np.frombuffer(raw, ">i4", 1 + dimensions).tolist()
        values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if magic != 2048 + dimensions or values.size != np.prod(sizes) or min(sizes) < 1:
        raise InputError(f"{path} is no idx file of the right kind, or it is cut off")
    shaped: np.ndarray = values.reshape(sizes)
    return shaped
