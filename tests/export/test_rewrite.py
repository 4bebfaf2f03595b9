"""Folding normalisation into the layer before it: the same function, one operator less."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from ganedge.export.to_onnx import to_onnx
from ganedge.runtime.manifest import Interface, Port

IMAGE = Port("image", "image", "float32", ("batch", 4, 8, 8), "NCHW", (-1.0, 1.0))


def interface(channels: int, side: int) -> Interface:
    out = Port("result", "image", "float32", ("batch", channels, side, side), "NCHW", (-1.0, 1.0))
    return Interface("image-to-image", (IMAGE,), (out,))


def seasoned(network: nn.Module) -> nn.Module:
    """With weights and statistics that are not the neutral ones."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network.eval()


NETWORKS = {
    "conv": (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)), 4, 8, 0),
    "grouped conv": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4, eps=0.8)), 4, 6, 0),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4)), 4, 16, 0),
    "grouped transposed": (nn.Sequential(nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2), nn.BatchNorm2d(4)), 4, 16, 0),
    "no affine": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)), 4, 8, 0),
    "after the activation": (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)), 4, 8, 1),
    "linear": (
        nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.BatchNorm1d(16, eps=0.8), nn.Unflatten(1, (1, 4, 4))),
        1,
        4,
        0,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_the_function(name: str) -> None:
    network, channels, side, left = NETWORKS[name]
    model = to_onnx(seasoned(network), interface(channels, side))
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == left
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for batch in (1, 5):
        x = torch.randn(batch, 4, 8, 8)
        with torch.inference_mode():
            wanted = network(x).numpy()
        np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], wanted, atol=1e-5, rtol=1e-5)


def test_a_result_that_others_read_is_not_folded() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(x)
            return y + torch.as_tensor(self.norm(y))

    model = to_onnx(seasoned(Branch()), interface(4, 8))
    assert [node.op_type for node in model.graph.node].count("BatchNormalization") == 1


def test_nothing_of_the_exporting_machine_stays() -> None:
    model = to_onnx(seasoned(NETWORKS["conv"][0]), interface(4, 8))
    data = model.SerializeToString()
    assert b".py" not in data
    assert b"site-packages" not in data
    assert not model.metadata_props
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(model, full_check=True)
