"""A network of StyleGAN2's form: modulated convolutions, noise drawn inside, truncation in W, INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ganedge.export import export
from ganedge.runtime import load
from ganedge.runtime.errors import UsageError

NETS = '''
import math
import torch
import torch.nn.functional as F
from torch import nn


class Modulated(nn.Module):
    """A convolution whose weights each item scales, computed in one call with a group for each item."""

    def __init__(self, inputs, outputs, style, kernel=3, demodulated=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.affine = nn.Linear(style, inputs)
        nn.init.ones_(self.affine.bias)
        self.demodulated = demodulated

    def forward(self, x, w):
        n, c, height, width = x.shape
        weight = self.weight * self.affine(w).view(n, 1, c, 1, 1) / math.sqrt(c * self.weight.shape[-1] ** 2)
        if self.demodulated:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        weight = weight.view(-1, c, *self.weight.shape[-2:])
        y = F.conv2d(x.reshape(1, n * c, height, width), weight, padding=weight.shape[-1] // 2, groups=n)
        return y.view(n, -1, height, width)


class Generator(nn.Module):
    """Latents to 64 x 64, with skip connections and noise at each resolution; the latents of W come out too."""

    def __init__(self, style=16, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.mapping = nn.Sequential(nn.Linear(style, style), nn.LeakyReLU(0.2), nn.Linear(style, style))
        self.register_buffer("w_avg", torch.randn(style) * 0.1)
        self.const = nn.Parameter(torch.randn(1, width, 4, 4))
        self.layers = nn.ModuleList(Modulated(width, width, style) for _ in range(5))
        self.images = nn.ModuleList(Modulated(width, 3, style, 1, False) for _ in range(5))
        self.strengths = nn.Parameter(torch.full((5,), 0.1))

    def forward(self, z, truncation):
        z = z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8)
        w = self.w_avg + truncation * (3 * self.mapping(z) - self.w_avg)
        x, image = self.const.repeat(len(z), 1, 1, 1), 0.0
        for layer, to_image, strength in zip(self.layers, self.images, self.strengths):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = layer(x, w)
            x = F.leaky_relu(x + strength * torch.randn(len(x), 1, *x.shape[2:]), 0.2)
            last = to_image(x, w)
            image = last if isinstance(image, float) else F.interpolate(image, scale_factor=2.0, mode="bilinear") + last
        return torch.tanh(F.interpolate(image, size=(64, 64)) / 5), w
'''


def test_as_int8_it_is_truncated_in_w_and_interpolated(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    inputs = ["16", "truncation=1:vector:required"]
    source = f"{tmp_path / 'nets.py'}:Generator"
    artifact = export(source, input=inputs, kind="latent", precision="int8", output=tmp_path / "g.onnx")
    assert artifact.manifest.precision == "int8"
    assert any(proof.passed for proof in artifact.manifest.parity)
    assert artifact.manifest.interface.output.item_shape == (3, 64, 64)
    with load(artifact.path) as generator:
        whole = generator.sample(4, seed=1)
        np.testing.assert_array_equal(whole, generator.sample(4, seed=1, truncation=1.0))
        latents = generator.sample_inputs(4, seed=1, truncation=0.5)
        np.testing.assert_array_equal(latents[0], generator.sample_inputs(4, seed=1)[0], "z is as it was")
        spread = [generator.sample(4, seed=1, truncation=psi).astype(float).std(0).mean() for psi in (1.0, 0.5, 0.0)]
        assert spread[0] > spread[1] > spread[2] == 0, "at 0 all items are that of the mean"
        path = generator.interpolate(1, 2, 3, truncation=0.7)
        np.testing.assert_array_equal(path[0], generator.sample(1, seed=1, truncation=0.7)[0])
        assert (path[0] != path[1]).any()
        with pytest.raises(UsageError, match="truncation 3 is out of range: give 0 to 2"):
            generator.sample(1, truncation=3)
        with pytest.raises(UsageError, match="style: this generator takes no style vector"):
            generator.sample(1, style="1")
