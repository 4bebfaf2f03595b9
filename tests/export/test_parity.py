"""The proof finds what is wrong: figures against plain formulas, and artifacts that were spoilt on purpose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ganedge.export import artifact as exporting
from ganedge.export import from_torch, parity, to_onnx
from ganedge.runtime.errors import GanEdgeError
from ganedge.runtime.manifest import Port, read_artifact

IMAGE = Port("image", "image", "float32", ("batch", 3, 12, 12), "NCHW", (-1.0, 1.0))


def test_figures() -> None:
    random = np.random.default_rng(0)
    a = random.uniform(-1, 1, (4, 3, 12, 12)).astype(np.float32)
    same = parity.difference(a, a, IMAGE)
    assert (same.max_abs, same.psnr, same.ssim, same.nonfinite) == (0, None, pytest.approx(1), 0)
    b = a.copy()
    b[2] += 0.1
    found = parity.difference(b, a, IMAGE)
    assert found.max_abs == pytest.approx(0.1, rel=1e-5)
    assert found.mean_abs == pytest.approx(0.025, rel=1e-4)
    assert found.psnr == pytest.approx(20 * np.log10(2 / 0.1), rel=1e-4), "of the worst item, not of the mean"
    assert found.ssim is not None
    assert 0.5 < found.ssim < 0.999
    b[0, 0, 0, 0] = np.nan
    assert parity.difference(b, a, IMAGE).nonfinite == pytest.approx(1 / a.size)


def test_ssim_against_its_formula() -> None:
    random = np.random.default_rng(1)
    a, b = random.uniform(-1, 1, (2, 1, 1, 7, 7))
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    a_mean, b_mean = a.mean() + 1, b.mean() + 1
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    wanted = (2 * a_mean * b_mean + c1) * (2 * covariance + c2)
    wanted /= (a_mean**2 + b_mean**2 + c1) * (a.var() + b.var() + c2)
    assert parity.ssim(a, b, IMAGE, 2.0) == pytest.approx(wanted)


def test_gates() -> None:
    zero = np.zeros((1, 3, 12, 12), np.float32)
    for error, passed in ((1e-4, True), (3e-4, False)):
        assert parity.GATES["fp32"].holds(parity.difference(zero + np.float32(error), zero, IMAGE)) == passed
    for error, passed in ((0.011, True), (0.012, False)):
        assert parity.GATES["fp16"].holds(parity.difference(zero + np.float32(error), zero, IMAGE)) == passed
    bad = zero.copy()
    bad[0, 0, 0, 0] = np.inf
    assert not parity.Gate().holds(parity.difference(bad, zero, IMAGE))


def test_shapes_that_differ() -> None:
    with pytest.raises(GanEdgeError, match="not the same one"):
        parity.difference(np.zeros((1, 3, 12, 12)), np.zeros((1, 3, 12, 11)), IMAGE)


def test_points_have_their_own_range() -> None:
    points = Port("points", "points", "float32", ("batch", 2), "NC")
    reference = np.float32([[0, 0], [4, 1]])
    found = parity.difference(reference + 0.04, reference, points)
    assert found.span == 4
    assert found.ssim is None
    assert found.psnr == pytest.approx(40, rel=1e-3)


def test_every_installed_engine_is_asked(artifact: Path) -> None:
    proofs = read_artifact(artifact)[0].parity
    assert [proof.engine.split()[0] for proof in proofs] == ["onnxruntime", "openvino"]
    assert all(proof.batches == (1, 4, 5, 16) for proof in proofs)


def test_a_wrong_artifact_is_not_written(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*arguments: object) -> onnx.ModelProto:
        model = to_onnx.to_onnx(*arguments)  # type: ignore[arg-type]
        weights = model.graph.initializer[0]
        weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.1), weights.name))
        return model

    monkeypatch.setattr(from_torch, "to_onnx", spoilt)
    with pytest.raises(GanEdgeError, match="other pictures than the generator"):
        exporting.export_run(tiny_run, tmp_path / "wrong.onnx")
    assert not list(tmp_path.iterdir())
