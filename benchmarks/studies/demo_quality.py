"""Check that the demo's digits are legible and varied: a classifier's agreement, and distances within a class.

    python -m ganedge.benchmarks.studies.demo_quality demo/generator.onnx demo/generator-int8.onnx

The bars: a classifier trained on real digits agrees with the label in 95 % of a thousand pictures, and the mean
distance between pictures of one class is at least 0.8 of that between real digits.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime import load
from ganedge.runtime.pictures import reader

AGREEMENT, DISTANCE = 0.95, 0.8
"""Least share of pictures that the classifier assigns to their label, and least relative distance within a class."""
EACH = 100
"""Pictures of each class."""
SMALL = 8
"""Height and width to which pictures are reduced for the classifier, pixels: those of scikit-learn's digits."""
Levels = NDArray[np.float64]


def measure(file: Path) -> tuple[float, float]:
    """Return the classifier's agreement, 0 to 1, and the mean distance within a class relative to real digits."""
    from sklearn.datasets import load_digits
    from sklearn.svm import SVC

    digits = load_digits()
    with load(file) as generator:
        drawn = [generator.sample(EACH, seed=label, label=label)[..., 0] for label in range(10)]
    pictures = [made.astype(np.uint8, copy=False) for made in drawn]
    side = pictures[0].shape[1]
    real = _resized((digits.images * (255 / 16)).round().astype(np.uint8), side)
    classifier = SVC(gamma="scale", C=10).fit(_features(real), digits.target)
    agreement = [float((classifier.predict(_features(made)) == label).mean()) for label, made in enumerate(pictures)]
    ours = [_distance(made) for made in pictures]
    theirs = [_distance(real[digits.target == label][:EACH]) for label in range(10)]
    return float(np.mean(agreement)), float(np.mean(ours) / np.mean(theirs))


def _resized(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.stack([reader.fit(picture[..., None], side, side)[..., 0] for picture in pictures])


def _features(pictures: NDArray[np.uint8]) -> Levels:
    """Mean levels of an 8×8 grid, 0 to 1."""
    side = pictures.shape[1] // SMALL
    cells = pictures.reshape(len(pictures), SMALL, side, SMALL, side).astype(np.float64)
    return np.asarray(cells.mean((2, 4)).reshape(len(pictures), -1) / 255)


def _distance(pictures: NDArray[np.uint8]) -> float:
    """Mean Euclidean distance between two different pictures."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float64)
    distances = np.sqrt(np.maximum(((flat[:, None] - flat[None]) ** 2).sum(-1), 0))
    return float(distances.sum() / (len(flat) * (len(flat) - 1)))


def main() -> None:
    """Print both figures of each file, and exit with 1 if one is below its bar."""
    failed = False
    for name in sys.argv[1:]:
        agreement, distance = measure(Path(name))
        failed |= agreement < AGREEMENT or distance < DISTANCE
        print(
            f"{name}: classifier agrees with {agreement:.1%} of labels, distance within a class {distance:.2f} of real"
        )
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
