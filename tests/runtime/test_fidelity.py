"""The figures of a comparison against plain formulas, and the gates."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ganedge.runtime import fidelity
from ganedge.runtime.errors import GanEdgeError, UsageError
from ganedge.runtime.manifest import Interface, Parity, Port

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


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("sides", [(9, 12), (8, 5), (5, 9)])
def test_ssim_over_every_window_of_the_worst_picture(layout: str, sides: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    a = random.uniform(0.2, 1, (2, 3, *sides))
    b = a + random.normal(0, 0.1, a.shape) * np.float32([1, 4]).reshape(2, 1, 1, 1)
    side, c1, c2 = min(7, *sides), 0.01**2, 0.03**2
    means = []
    for x, y in zip(a, b, strict=True):
        windows = [
            (x[c, i : i + side, j : j + side], y[c, i : i + side, j : j + side])
            for c in range(3)
            for i in range(sides[0] - side + 1)
            for j in range(sides[1] - side + 1)
        ]
        means.append(
            np.mean(
                [
                    (2 * u.mean() * v.mean() + c1) * (2 * ((u - u.mean()) * (v - v.mean())).mean() + c2)
                    / ((u.mean() ** 2 + v.mean() ** 2 + c1) * (u.var() + v.var() + c2))
                    for u, v in windows
                ]
            )
        )  # fmt: skip
    shape = ("batch", 3, "height", "width") if layout == "NCHW" else ("batch", "height", "width", 3)
    port = replace(IMAGE, layout=layout, shape=shape, range=(0.0, 1.0))
    if layout == "NHWC":
        a, b = a.transpose(0, 2, 3, 1), b.transpose(0, 2, 3, 1)
    assert fidelity.ssim(a, b, port, 1.0) == pytest.approx(min(means))


def test_figures_take_the_span_that_is_given_and_count_what_is_not_finite() -> None:
    zero = np.zeros((2, 3, 12, 12), np.float32)
    bad = zero.copy()
    bad[1, 2, 3, 4:6] = np.nan, -np.inf
    distance = fidelity.difference(bad + np.float32(0.5), zero, IMAGE, span=5.0)
    assert distance.span == 5
    assert distance.max_abs == 0.5
    assert distance.mean_abs == pytest.approx(0.5, rel=0.01)
    assert distance.psnr == pytest.approx(20, abs=0.01)
    assert distance.nonfinite == pytest.approx(2 / zero.size)
    only = fidelity.difference(bad, zero, IMAGE)
    assert (only.max_abs, only.psnr) == (0, None), "what is not finite counts as zero in the other figures"


def test_range_of_points_is_that_of_all_references() -> None:
    points = Port("points", "points", "float32", ("batch", 2), "NC")
    assert fidelity.span_of(points, np.float32([[1, 2]]), np.float32([[-3, 1]])) == 5
    assert fidelity.span_of(points, np.float32([[2, 2]])) == 1e-12
    assert fidelity.span_of(IMAGE) == 2


def test_the_worst_of_several_comparisons() -> None:
    first = fidelity.Difference(2.0, 0.1, 0.01, 40.0, 0.9, 0.0)
    second = fidelity.Difference(2.0, 0.3, 0.03, 30.0, 0.8, 0.5)
    same = fidelity.Difference(2.0, 0.0, 0.02, None, None, 0.0)
    for order in ([first, second, same], [same, second, first]):
        assert fidelity.worst(order) == fidelity.Difference(2.0, 0.3, pytest.approx(0.02), 30.0, 0.8, 0.5)
    assert fidelity.worst([same]) == same


def test_gates_as_text_and_back() -> None:
    for text in ("psnr=40", "maxabs=0.001", "maxabs=0.001,psnr=40", "none"):
        assert str(fidelity.read_gate(text)) == text
    assert fidelity.read_gate(" psnr=40, maxabs=1e-3") == fidelity.Gate(max_abs=1e-3, psnr=40.0)
    assert fidelity.read_gate("psnr=35.5").text == "35.5 dB"
    assert fidelity.read_gate("maxabs=0.001").text == "0.1 %"
    assert fidelity.read_gate("maxabs=0.001,psnr=40").text == "0.1 % and 40 dB"
    assert fidelity.Gate().text == "none"
    for text in ("", "psnr", "psnr=high", "ssim=1", "psnr=40;maxabs=1"):
        with pytest.raises(UsageError, match=re.escape(f"tolerance {text!r}: give psnr=40, maxabs=1e-3")):
            fidelity.read_gate(text)
    for text in ("psnr=0", "maxabs=-1", "psnr=inf", "psnr=40,maxabs=nan"):
        with pytest.raises(UsageError, match=re.escape(f"tolerance {text!r}: the figures are more than 0")):
            fidelity.read_gate(text)


def test_a_gate_holds_at_its_limit_and_with_slack() -> None:
    gate = fidelity.Gate(max_abs=0.25, psnr=40.0)
    at_limit = fidelity.Difference(2.0, 0.5, 0.1, 40.0, None, 0.0)
    assert gate.holds(at_limit)
    assert not gate.holds(replace(at_limit, max_abs=0.51))
    assert not gate.holds(replace(at_limit, psnr=39.9))
    assert not gate.holds(replace(at_limit, nonfinite=1e-9))
    assert gate.holds(replace(at_limit, psnr=None))
    assert gate.holds(replace(at_limit, max_abs=5.0, psnr=20.0), slack=10)
    assert not gate.holds(replace(at_limit, max_abs=5.1, psnr=20.0), slack=10)
    assert not gate.holds(replace(at_limit, max_abs=5.0, psnr=19.9), slack=10)


def test_the_gate_of_each_precision_and_interface() -> None:
    latent = Interface("latent-to-image", (Port("z", "latent", "float32", ("batch", 4), "NC"),), (IMAGE,), "normal")
    picture = Interface("image-to-image", (replace(IMAGE, name="x"),), (IMAGE,))
    plain = replace(picture, outputs=(replace(IMAGE, dtype="uint8", layout="NHWC", shape=("batch", 12, 12, 3)),))
    for precision in ("fp32", "fp16", "bf16", "int8"):
        assert fidelity.gate_of(precision, picture) == fidelity.GATES[precision]
    assert fidelity.gate_of("int8", latent) == fidelity.LATENT_INT8
    assert fidelity.gate_of("fp16", latent) == fidelity.GATES["fp16"]
    assert fidelity.gate_of("fp32", plain).max_abs == pytest.approx(0.5 / 255 + 1e-4, rel=1e-9)
    assert fidelity.gate_of("fp16", plain) == fidelity.GATES["fp16"]


def test_what_people_are_told_of_a_comparison() -> None:
    distance = fidelity.Difference(2.0, 0.125, 0.1, 40.04, 0.98765, 0.0)
    assert str(distance) == "max error 0.062, PSNR 40.0 dB, SSIM 0.9877"
    assert (
        str(replace(distance, psnr=None, ssim=None, nonfinite=0.5)) == "max error 0.062, identical, 50.00% not finite"
    )


def test_how_far_an_engine_was_off_in_a_proof_that_it_failed() -> None:
    proof = Parity("ort 1", "fp32", 4, (1,), 0.5, 0.1, 12.34, None, 0.0, "maxabs=0.001,psnr=40", False, 2.0)
    gate = "where the gate is 0.1 % and 40 dB"
    assert fidelity.miss(proof) == f"off by 25 % of the output's range (12.3 dB) {gate}"
    assert fidelity.miss(replace(proof, span=0.0, psnr=None)) == f"off by 0.5 {gate}"
    assert fidelity.miss(replace(proof, nonfinite=0.25, worst="batch 2")) == (
        f"25.00% of its values are NaN or infinite {gate}, worst for batch 2"
    )
