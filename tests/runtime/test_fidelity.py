"""The figures of a comparison against plain formulas, and the gates."""

from __future__ import annotations

import numpy as np
import pytest

from ganedge.runtime import fidelity
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import Port

IMAGE = Port("image", "image", "float32", ("batch", 3, 12, 12), "NCHW", (-1.0, 1.0))


def test_figures() -> None:
    random = np.random.default_rng(0)
    a = random.uniform(-1, 1, (4, 3, 12, 12)).astype(np.float32)
    same = fidelity.difference(a, a, IMAGE)
    assert (same.max_abs, same.psnr, same.ssim, same.nonfinite) == (0, None, pytest.approx(1), 0)
    b = a.copy()
    b[2] += 0.1
    found = fidelity.difference(b, a, IMAGE)
    assert found.max_abs == pytest.approx(0.1, rel=1e-5)
    assert found.mean_abs == pytest.approx(0.025, rel=1e-4)
    assert found.psnr == pytest.approx(20 * np.log10(2 / 0.1), rel=1e-4), "of the worst item, not of the mean"
    assert found.ssim is not None
    assert 0.5 < found.ssim < 0.999
    b[0, 0, 0, 0] = np.nan
    assert fidelity.difference(b, a, IMAGE).nonfinite == pytest.approx(1 / a.size)


def test_ssim_against_its_formula() -> None:
    random = np.random.default_rng(1)
    a, b = random.uniform(-1, 1, (2, 1, 1, 7, 7))
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    a_mean, b_mean = a.mean() + 1, b.mean() + 1
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    wanted = (2 * a_mean * b_mean + c1) * (2 * covariance + c2)
    wanted /= (a_mean**2 + b_mean**2 + c1) * (a.var() + b.var() + c2)
    assert fidelity.ssim(a, b, IMAGE, 2.0) == pytest.approx(wanted)


def test_gates() -> None:
    zero = np.zeros((1, 3, 12, 12), np.float32)
    for error, passed in ((1e-4, True), (3e-4, False)):
        assert fidelity.GATES["fp32"].holds(fidelity.difference(zero + np.float32(error), zero, IMAGE)) == passed
    for error, passed in ((0.011, True), (0.012, False)):
        assert fidelity.GATES["fp16"].holds(fidelity.difference(zero + np.float32(error), zero, IMAGE)) == passed
    bad = zero.copy()
    bad[0, 0, 0, 0] = np.inf
    assert not fidelity.Gate().holds(fidelity.difference(bad, zero, IMAGE))


def test_shapes_that_differ() -> None:
    with pytest.raises(GanEdgeError, match="not the same generator"):
        fidelity.difference(np.zeros((1, 3, 12, 12)), np.zeros((1, 3, 12, 11)), IMAGE)


def test_points_have_their_own_range() -> None:
    points = Port("points", "points", "float32", ("batch", 2), "NC")
    reference = np.float32([[0, 0], [4, 1]])
    found = fidelity.difference(reference + 0.04, reference, points)
    assert found.span == 4
    assert found.ssim is None
    assert found.psnr == pytest.approx(40, rel=1e-3)
