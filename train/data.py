"""Training data: from a name or a path to batches of tensors.

    data = open_data("digits", wants)                      # a built-in set
    data = open_data("mnist:folder/with/idx", wants)       # files that lie there already
    data = open_data("pictures/", wants)                   # any folder, searched recursively

Pictures are decoded once, kept as uint8 and handed out in batches.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ganedge.models.variant import Wants
from ganedge.runtime.errors import InputError, UsageError
from ganedge.runtime.manifest import KEY

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
"""File endings that are taken for pictures."""
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / KEY
"""Where `--download` puts data sets."""


@dataclass(frozen=True)
class Data:
    """A data set in memory."""

    images: Tensor
    """uint8 `[N, C, H, W]`."""
    spec: str
    """What it was opened as."""
    skipped: tuple[str, ...] = field(default=())
    """Files that could not be read, each with its reason."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def facts(self) -> dict[str, int]:
        """What a config may leave for the data to say."""
        return {"channels": self.images.shape[1]}

    def batch(self, indices: Tensor, wants: Wants, device: torch.device) -> dict[str, Tensor]:
        """The items at `indices`, on the device, as float `[N, C, H, W]` in the wanted range."""
        low, high = wants.range
        pictures = self.images[indices].to(device, non_blocking=True)
        return {"images": pictures.float().mul_((high - low) / 255).add_(low)}


def open_data(spec: str, wants: Wants, *, download: bool = False) -> Data:
    """Open what `spec` names and bring it to the wanted size and channels.

    Args:
        spec: A built-in name (`digits`, `mnist`), `mnist:DIR`, or the path of a folder of pictures.
        wants: What the variant trains on.
        download: Whether a built-in set may be fetched from the internet.

    Raises:
        UsageError: neither a built-in name nor a folder, or a set that is not here and may not be downloaded.
        InputError: a folder without one readable picture, or damaged files.
    """
    name, colon, place = spec.partition(":")
    if name in BUILT_IN and (colon or not place):
        pictures = BUILT_IN[name](Path(place).expanduser() if colon else None, download)
        return Data(_resize(pictures, wants), spec)
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is neither a built-in data set nor a folder"
        raise UsageError(f"data {spec!r} {what}: give {', '.join(BUILT_IN)}, mnist:DIR or a folder of pictures")
    return _folder(folder, spec, wants)


def _digits(place: Path | None, _download: bool) -> np.ndarray:
    """scikit-learn's 1797 handwritten digits, 8×8, grey levels 0 to 16; they come with the package."""
    if place is not None:
        raise UsageError(f"data 'digits:{place}': digits are built in, write just digits")
    from sklearn.datasets import load_digits

    images: np.ndarray = load_digits().images
    return np.rint(images * (255 / 16)).astype(np.uint8)


def _mnist(place: Path | None, download: bool) -> np.ndarray:
    """MNIST's 60000 training pictures, 28×28 grey: from idx files in `place`, or through torchvision."""
    if place is not None:
        return _idx(place, "train-images-idx3-ubyte")
    from torchvision.datasets import MNIST

    try:
        images: np.ndarray = MNIST(str(CACHE), train=True, download=download).data.numpy()
    except (RuntimeError, OSError) as error:
        if download:
            raise InputError(f"MNIST could not be downloaded to {CACHE}: {error}") from error
        raise UsageError(
            f"data 'mnist' is not in {CACHE}: add --download to fetch it, or give mnist:DIR for idx files you have"
        ) from error
    return images


def _idx(place: Path, stem: str) -> np.ndarray:
    """Read one idx file (http://yann.lecun.com/exdb/mnist), gzipped or not: magic 2051, three sizes, then bytes."""
    for path in (place / stem, place / f"{stem}.gz", place / "raw" / stem, place / "MNIST" / "raw" / stem):
        if path.is_file():
            break
    else:
        raise UsageError(f"data 'mnist:{place}': no {stem} or {stem}.gz in that folder")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, count, height, width = np.frombuffer(raw, ">i4", 4).tolist()
        pixels = np.frombuffer(raw, np.uint8, offset=16)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if magic != 2051 or pixels.size != count * height * width or not count:
        raise InputError(f"{path} is no idx file of pictures, or it is cut off")
    return pixels.reshape(count, height, width)


BUILT_IN: dict[str, Callable[[Path | None, bool], np.ndarray]] = {"digits": _digits, "mnist": _mnist}
"""Data sets by name: each gives uint8 `[N, H, W]` or `[N, H, W, 3]`."""


def _resize(pictures: np.ndarray, wants: Wants) -> Tensor:
    """Bring pictures of one size to the wanted size and channels: uint8 `[N, C, H, W]`."""
    images = torch.from_numpy(np.array(pictures))
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    if wants.channels == 3 and images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    elif wants.channels == 1 and images.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # ITU-R BT.601, as Pillow converts to grey.
        images = (images * weights).sum(1, keepdim=True).round().to(torch.uint8)
    if images.shape[-2:] != (wants.size, wants.size):
        size = (wants.size, wants.size)
        parts = (
            torch.nn.functional.interpolate(part.float(), size, mode="bicubic", antialias=True)
            for part in torch.split(images, 4096)
        )
        images = torch.cat([part.round_().clamp_(0, 255).to(torch.uint8) for part in parts])
    return images.contiguous()


def _folder(folder: Path, spec: str, wants: Wants) -> Data:
    """Every picture below `folder`, or below its `train/` when it has one."""
    root = folder / "train" if (folder / "train").is_dir() else folder
    paths = find_pictures(root)
    if not paths:
        endings = ", ".join(sorted(PICTURES))
        raise InputError(f"data {spec!r}: no pictures in {root} ({endings}, searched recursively)")
    channels = wants.channels or 3
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda path: _try_decode(path, wants.size, channels), paths))
    good = [item for item in found if isinstance(item, np.ndarray)]
    skipped = tuple(f"{path}: {item}" for path, item in zip(paths, found, strict=True) if isinstance(item, str))
    if not good:
        raise InputError(f"data {spec!r}: none of {len(paths)} pictures could be read; the first: {skipped[0]}")
    return Data(torch.from_numpy(np.stack(good)).permute(0, 3, 1, 2).contiguous(), spec, skipped)


def find_pictures(root: Path) -> list[Path]:
    """Every file below `root` that ends like a picture, hidden ones left out, in a fixed order."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def _try_decode(path: Path, size: int, channels: int) -> np.ndarray | str:
    try:
        return decode(path, size, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        unknown = isinstance(error, UnidentifiedImageError)
        return "not a picture" if unknown else str(error).partition("\n")[0] or type(error).__name__


def decode(path: Path, size: int, channels: int) -> np.ndarray:
    """Read one picture, upright, scaled and centre-cropped to a square.

    Args:
        path: Any format, mode and orientation that Pillow reads.
        size: Height and width, pixels.
        channels: 1 or 3; transparency is laid over white.

    Returns:
        uint8 `[size, size, channels]`.
    """
    with Image.open(path) as image:
        # A JPEG can be decoded at a fraction of its size, which is most of the time saved on photographs.
        image.draft(None, (size, size))
        upright = ImageOps.exif_transpose(image)
        picture = ImageOps.fit(_flatten(upright, channels), (size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture, dtype=np.uint8)
    return pixels[..., None] if channels == 1 else pixels


def _flatten(image: Image.Image, channels: int) -> Image.Image:
    """Bring any mode to grey or colour, 8 bits a channel."""
    if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N", "F"):
        levels = np.asarray(image, dtype=np.float64)
        top = 255.0 if levels.max(initial=0) <= 255 else 65535.0
        image = Image.fromarray(np.rint(levels.clip(0, top) * (255 / top)).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def order(length: int, epoch: int, mix: Callable[[int], int]) -> Tensor:
    """The order in which one epoch visits the data: a permutation that depends on seed and epoch alone."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(mix(epoch)))


def indices(length: int, begin: int, count: int, permutation: Callable[[int], Tensor]) -> Tensor:
    """Items `begin` to `begin + count` of the endless sequence of epochs: a batch may reach into the next one."""
    parts: list[Tensor] = []
    while count > 0:
        epoch, offset = divmod(begin, length)
        part = permutation(epoch)[offset : offset + count]
        parts.append(part)
        begin += len(part)
        count -= len(part)
    return torch.cat(parts)


def describe_skipped(skipped: Sequence[str], shown: int = 5) -> list[str]:
    """Lines that name the files left out: the first few, then a count."""
    lines = [f"skipped {text}" for text in skipped[:shown]]
    if len(skipped) > shown:
        lines.append(f"skipped {len(skipped) - shown} more")
    return lines
