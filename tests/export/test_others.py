"""Generators built the way published repositories build them, each exported from its file without editing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ganedge.runtime import engines
from ganedge.runtime.manifest import read_artifact

Command = Callable[..., Any]
BLOCKS = """
import torch
from torch import nn
import torch.nn.functional as F

class Residual(nn.Module):
    def __init__(self, width, norm=True):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.InstanceNorm2d(width, affine=True) if norm else nn.Identity()
        self.act = nn.PReLU()

    def forward(self, x):
        return x + self.act(self.norm(self.first(x)))
"""
NETS = """
from .blocks import *

class DeviceCounting(nn.Module):
    # A latent of one pixel through transposed convolutions; several devices where there are.
    def __init__(self, ngpu):
        super().__init__()
        self.ngpu = ngpu
        self.main = nn.Sequential(
            nn.ConvTranspose2d(5, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, input):
        if input.is_cuda and self.ngpu > 1:
            return nn.parallel.data_parallel(self.main, input, range(self.ngpu))
        return self.main(input)

class Mapped(nn.Module):
    # A mapping network and modulated features on a constant; a default argument; a buffer in double precision.
    def __init__(self, depth=2):
        super().__init__()
        self.mapping = nn.Sequential(*[layer for _ in range(depth) for layer in (nn.Linear(6, 6), nn.LeakyReLU(0.2))])
        self.constant = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.style = nn.Linear(6, 16)
        self.conv = nn.utils.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.image = nn.Conv2d(8, 3, 1)
        self.register_buffer("blur", torch.tensor([[1.0, 2.0, 1.0]], dtype=torch.float64).T @ torch.tensor(
            [[1.0, 2.0, 1.0]], dtype=torch.float64) / 16)

    def forward(self, z, truncation=1.0, alpha=1.0):
        z = z * torch.rsqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8)
        w = self.mapping(z) * truncation
        x = self.constant.repeat(z.size(0), 1, 1, 1)
        scale, shift = self.style(w).view(-1, 16, 1, 1).chunk(2, 1)
        x = F.instance_norm(x) * (1 + scale) + shift
        x = F.interpolate(F.leaky_relu(self.conv(x), 0.2), scale_factor=2, mode="bilinear", align_corners=False)
        kernel = self.blur.to(x.dtype)[None, None].repeat(8, 1, 1, 1)
        x = F.conv2d(x, kernel, padding=1, groups=8)
        return torch.tanh(self.image(x)) * alpha

class Super(nn.Module):
    # Twice the size through sub-pixels; values of 0 to 1 that are not clipped.
    def __init__(self, blocks=2):
        super().__init__()
        self.head = nn.Conv2d(3, 8, 9, padding=4)
        self.body = nn.Sequential(*[Residual(8, norm=False) for _ in range(blocks)])
        up = [nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.tail = nn.Sequential(*up, nn.Conv2d(8, 3, 9, padding=4))

    def forward(self, x):
        first = self.head(x)
        return (torch.tanh(self.tail(first + self.body(first))) + 1) / 2

class Dense(nn.Module):
    # Concatenated features with scaled residuals, nearest upsampling between convolutions.
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(11, 8, 3, 1, 1)
        self.up, self.last = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, x):
        y = F.leaky_relu(self.a(x), 0.2, inplace=True)
        y = y + 0.2 * self.b(torch.cat((x, y), 1))
        y = F.leaky_relu(self.up(F.interpolate(y, scale_factor=2, mode="nearest")), 0.2)
        return self.last(y)

class Cartoon(nn.Module):
    # Grouped and layer-like normalisation, depthwise convolutions, resizing to the input's own size.
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 8, 3, 2), nn.GroupNorm(1, 8), nn.LeakyReLU(0.2))
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GroupNorm(4, 8), nn.Hardswish())
        self.out = nn.Conv2d(8, 3, 7, padding=3, padding_mode="reflect")

    @torch.no_grad()
    def forward(self, input, align_corners=True):
        out = self.deep(self.down(input))
        out = F.interpolate(out, input.size()[-2:], mode="bilinear", align_corners=False)
        return torch.tanh(self.out(out))

class Style(nn.Module):
    # Fast style transfer: values of 0 to 255.
    def __init__(self):
        super().__init__()
        norm = nn.InstanceNorm2d(8, affine=True)
        self.net = nn.Sequential(nn.ReflectionPad2d(4), nn.Conv2d(3, 8, 9), norm, nn.ReLU(),
                                 Residual(8), nn.ReflectionPad2d(4), nn.Conv2d(8, 3, 9))

    def forward(self, x):
        return self.net(x) * 40 + 127

class Several(nn.Module):
    # The fused result and the side outputs, as nested U-Nets give them.
    def __init__(self):
        super().__init__()
        self.side = nn.Conv2d(3, 1, 3, padding=1)
        self.deep = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        d1 = self.side(x)
        d2 = F.interpolate(self.deep(F.max_pool2d(x, 2, stride=2, ceil_mode=True)), size=d1.shape[2:], mode="bilinear")
        return torch.sigmoid(d1 + d2), torch.sigmoid(d1), torch.sigmoid(d2)

class Classes(nn.Module):
    # Conditional normalisation by class numbers, spectral norm.
    def __init__(self, n_classes=3):
        super().__init__()
        self.lin = nn.utils.spectral_norm(nn.Linear(6, 8 * 16))
        self.embed = nn.Embedding(n_classes, 16)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.conv = nn.utils.spectral_norm(nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, z, y):
        h = self.norm(self.lin(z).view(z.shape[0], -1, 4, 4))
        gain, bias = self.embed(y).chunk(2, dim=1)
        h = h * (1 + gain[:, :, None, None]) + bias[..., None, None]
        return torch.tanh(self.conv(F.relu(F.interpolate(h, scale_factor=2))))

class Domains(nn.Module):
    # A vector of the target domain, spread over the picture.
    def __init__(self, c_dim=3):
        super().__init__()
        norm = nn.InstanceNorm2d(8, affine=True, track_running_stats=True)
        self.main = nn.Sequential(nn.Conv2d(3 + c_dim, 8, 7, 1, 3, bias=False), norm, nn.ReLU(inplace=True),
                                  nn.Conv2d(8, 3, 7, 1, 3, bias=False), nn.Tanh())

    def forward(self, x, c):
        c = c.view(c.size(0), c.size(1), 1, 1).repeat(1, 1, x.size(2), x.size(3))
        return self.main(torch.cat([x, c], dim=1))

class Spatial(nn.Module):
    # The input modulates every normalisation, at its own resolution.
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.InstanceNorm2d(8)
        self.gamma, self.beta = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, seg, z=None):
        x = self.fc(F.interpolate(seg, scale_factor=0.5))
        small = F.interpolate(seg, size=x.size()[2:], mode="nearest")
        x = self.norm(x) * (1 + self.gamma(small)) + self.beta(small)
        return torch.tanh(self.out(F.leaky_relu(F.interpolate(x, scale_factor=2), 2e-1)))

class Named(nn.Module):
    # A dictionary of results; antialiased downsampling by a fixed kernel.
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.register_buffer("filt", torch.ones(3, 1, 3, 3) / 9)

    def forward(self, x):
        y = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=3)
        features = self.conv(y)
        image = F.conv_transpose2d(features, self.filt, stride=2, padding=1, output_padding=1, groups=3)
        return {"image": torch.tanh(image), "features": features}
"""
LATENT = ("--kind", "latent")
PICTURE = ("--kind", "image", "--input", "3xHxW", "--size", "dynamic")
CASES: dict[str, tuple[str, ...]] = {
    "DeviceCounting": ("--kwargs", '{"ngpu": 2}', "--input", "5x1x1", *LATENT),
    "Mapped": ("--input", "6", *LATENT),
    "Super": (*PICTURE, "--range", "0,1"),
    "Dense": (*PICTURE, "--range", "0,1"),
    "Cartoon": PICTURE,
    "Style": (*PICTURE, "--range", "0,255"),
    "Several": (*PICTURE, "--range", "0,1"),
    "Classes": ("--input", "6", "--classes", "3", *LATENT),
    "Domains": (*PICTURE, "--classes", "black,blond,brown"),
    "Spatial": PICTURE,
    "Named": PICTURE,
}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with imports between its files."""
    folder = tmp_path_factory.mktemp("theirs") / "theirs"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "blocks.py").write_text(BLOCKS)
    (folder / "nets.py").write_text(NETS)
    return folder / "nets.py"


@pytest.mark.parametrize("name", CASES)
def test_it_exports_as_it_is(command: Command, nets: Path, tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    out = tmp_path / "g.onnx"
    done = command("gan-export", f"{nets}:{name}", *CASES[name], "-o", out)
    assert done.code == 0, done.err
    manifest, data = read_artifact(out)
    assert len(manifest.parity) == sum(map(engines.installed, ("onnxruntime", "openvino")))
    kinds = {node.op_type for node in onnx.load_model_from_string(data).graph.node}
    # Behind a fully connected layer and a reshape it cannot be folded.
    assert "BatchNormalization" not in kinds or name == "Classes"
    if name in ("Super", "Dense"):
        assert manifest.interface.output.shape == ("batch", 3, "2*height", "2*width")
    if name in ("Several", "Named"):
        assert "is taken; --result takes another" in done.err
    if name == "Domains":
        assert manifest.interface.inputs[1].role == "label"
        assert "a vector with a one" in done.err


def test_a_whole_module_must_be_trusted(command: Command, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = tmp_path / "netG.pth"
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Tanh()), whole)
    done = command("gan-export", whole, *PICTURE, "-o", tmp_path / "g.onnx")
    assert done.code == 1
    assert "--trust" in done.err
    done = command("gan-export", whole, *PICTURE, "--trust", "-o", tmp_path / "g.onnx")
    assert done.code == 0, done.err
    torch.save({"weight": torch.zeros(3)}, whole)
    done = command("gan-export", whole, *PICTURE, "-o", tmp_path / "h.onnx")
    assert done.code == 2
    assert "weights alone" in done.err


def test_super_resolution_recognised_from_its_weights(command: Command, tmp_path: Path) -> None:
    compact = pytest.importorskip("spandrel.architectures.Compact", reason="needs spandrel: ganedge[sr]")
    esrgan = pytest.importorskip("spandrel.architectures.ESRGAN", reason="needs spandrel: ganedge[sr]")
    torch.manual_seed(0)
    made = {
        4: compact.Compact(num_feat=8, num_conv=2, upscale=4),
        2: esrgan.ESRGAN(num_filters=8, num_blocks=1, scale=2),
    }
    for scale, network in made.items():
        torch.save({"params_ema": network.state_dict()}, tmp_path / f"x{scale}.pth")
        out = tmp_path / f"x{scale}.onnx"
        done = command("gan-export", tmp_path / f"x{scale}.pth", "--arch", "auto", "-o", out)
        assert done.code == 0, done.err
        assert f"{scale} × the size" in done.err
        manifest, _ = read_artifact(out)
        assert manifest.interface.output.shape[2:] == (f"{scale}*height", f"{scale}*width")
        from ganedge.runtime import load

        with load(out) as generator:
            assert generator.translate(np.zeros((20, 31, 3), np.uint8)).shape == (20 * scale, 31 * scale, 3)
    torch.save({"weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    done = command("gan-export", tmp_path / "other.pth", "--arch", "auto")
    assert done.code == 1
    assert "recognises no network" in done.err
