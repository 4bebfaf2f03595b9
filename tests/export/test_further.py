"""Networks with several inputs: stated, matched with forward, guessed, exported in each precision, and used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ganedge.export import export
from ganedge.export.further import FurtherInput, read_input, read_inputs
from ganedge.runtime import load
from ganedge.runtime.errors import GanEdgeError, UsageError

NETS = '''
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)


class Inpaint(nn.Module):
    """The mask before the picture, as some have it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, mask, picture):
        return torch.tanh(self.head(F.relu(self.body(torch.cat([picture * (1 - mask), mask], 1)))))


class Domains(nn.Module):
    """A picture and a domain: a vector with a one, joined to the picture as planes."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3 + 4, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x, c):
        planes = c[:, :, None, None].expand(-1, -1, x.shape[2], x.shape[3])
        return torch.tanh(self.head(F.relu(self.body(torch.cat([x, planes], 1)))))


class Embedded(nn.Module):
    """A latent and the number of a class."""

    def __init__(self):
        super().__init__()
        self.table, self.layer = nn.Embedding(6, 5), nn.Linear(5 + 7, 3 * 8 * 8)

    def forward(self, z, y):
        return torch.tanh(self.layer(torch.cat([z, self.table(y)], 1))).view(-1, 3, 8, 8)


class Styled(nn.Module):
    """A picture, a style vector and an option that nobody sets."""

    def __init__(self):
        super().__init__()
        self.body, self.affine = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(9, 6)

    def forward(self, x, style, scale=1.0):
        gain, shift = self.affine(style)[:, :, None, None].chunk(2, 1)
        return torch.tanh(F.instance_norm(self.body(x)) * (1 + gain) + shift) * scale


class Everything(nn.Module):
    """A mask, a style and a class, of which the user states the style and the classes."""

    def __init__(self):
        super().__init__()
        self.tints, self.affine = nn.Embedding(3, 3), nn.Linear(4, 3)

    def forward(self, x, mask, style, y):
        colour = torch.tanh(self.affine(style))[:, :, None, None]
        return torch.tanh(x * (1 - mask) + mask * colour + self.tints(y)[:, :, None, None])


class Idle(nn.Module):
    """A mask that changes nothing."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, mask):
        return torch.tanh(self.body(x)) + 0 * mask


class Layers(nn.Module):
    """One vector for each layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4 * 8, 192)

    def forward(self, w):
        return torch.tanh(self.layer(w.flatten(1))).view(-1, 3, 8, 8)


class Pair(nn.Module):
    """Two pictures of one size."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, content, reference):
        return torch.tanh(self.body(torch.cat([content, reference], 1)))


class Riddle(nn.Module):
    """Something that nobody can guess."""

    def forward(self, x, thing):
        return x * thing["key"]
'''


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path / "nets.py"


def ports(artifact: Any) -> list[tuple[str, str, tuple[int | str, ...]]]:
    return [(port.name, port.role, port.shape[1:]) for port in artifact.manifest.interface.inputs]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_mask_before_the_picture(nets: Path, tmp_path: Path, precision: str) -> None:
    artifact = export(
        f"{nets}:Inpaint", input="3xHxW", kind="image", output=tmp_path / "a.onnx", precision=precision, io="uint8"
    )
    assert ports(artifact) == [("input", "image", ("height", "width", 3)), ("mask", "mask", ("height", "width", 1))]
    assert all(proof.passed for proof in artifact.parity)
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (20, 30, 3), np.uint8)
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:15] = 255
    with load(artifact.path) as generator:
        plain, other = generator.translate(picture, mask=mask), picture.copy()
        other[6:14, 6:14] = 0
        np.testing.assert_array_equal(plain, generator.translate(other, mask=mask), "what is masked is not seen")


def test_domains_from_a_vector_with_a_one(nets: Path, tmp_path: Path) -> None:
    artifact = export(f"{nets}:Domains", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    assert ports(artifact)[1] == ("label", "label", ())
    assert artifact.manifest.interface.classes == ("0", "1", "2", "3")
    named = export(f"{nets}:Domains", input="3xHxW", kind="image", classes="a,b,c,d", output=tmp_path / "b.onnx")
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with load(named.path) as generator:
        results = [generator.translate(picture, label=name) for name in "abcd"]
        assert all((results[0] != result).any() for result in results[1:])


def test_classes_of_an_embedding(nets: Path, tmp_path: Path) -> None:
    artifact = export(f"{nets}:Embedded", input="7", kind="latent", output=tmp_path / "a.onnx")
    assert len(artifact.manifest.interface.classes) == 6
    with load(artifact.path) as generator:
        assert generator.sample(6, seed=0).shape == (6, 8, 8, 3)


def test_a_style_is_found_by_its_layer_or_stated(nets: Path, tmp_path: Path) -> None:
    found = export(f"{nets}:Styled", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    assert ports(found)[1] == ("style", "vector", (9,))
    stated = export(
        f"{nets}:Styled", input=["3xHxW", "style=9:vector:required"], kind="image", output=tmp_path / "b.onnx"
    )
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with load(found.path) as drawn, load(stated.path) as required:
        assert (drawn.translate(picture, seed=1) != drawn.translate(picture, seed=2)).any()
        style = np.linspace(-1, 1, 9)
        np.testing.assert_array_equal(drawn.translate(picture, style=style), required.translate(picture, style=style))
        with pytest.raises(UsageError, match="needs style, 9 numbers"):
            required.translate(picture)


def test_what_is_stated_goes_where_it_belongs(nets: Path, tmp_path: Path) -> None:
    source, out = f"{nets}:Everything", tmp_path / "a.onnx"
    artifact = export(source, input=["3xHxW", "style=4"], classes="day,dusk,night", kind="image", output=out)
    assert [port[0] for port in ports(artifact)] == ["input", "mask", "style", "label"]
    assert artifact.manifest.interface.classes == ("day", "dusk", "night")


def test_two_pictures(nets: Path, tmp_path: Path) -> None:
    artifact = export(f"{nets}:Pair", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    assert ports(artifact)[1] == ("reference", "image", (3, "height", "width"))
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with load(artifact.path) as generator:
        assert (generator.translate(picture, style=picture) != generator.translate(picture, style=255 - picture)).any()


def test_one_vector_for_each_layer(nets: Path, tmp_path: Path) -> None:
    artifact = export(f"{nets}:Layers", input="4x8", kind="latent", output=tmp_path / "a.onnx")
    assert artifact.manifest.interface.inputs[0].layout == "NLC"
    with load(artifact.path) as generator:
        assert generator.sample_inputs(3, seed=0)[0].shape == (3, 4, 8)
        assert generator.interpolate(0, 1, 4).shape == (4, 8, 8, 3)


def test_an_input_without_effect_is_refused(nets: Path, tmp_path: Path) -> None:
    with pytest.raises(GanEdgeError, match=r"the input mask \(mask\) has no effect on the result"):
        export(f"{nets}:Idle", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_what_nobody_can_guess_is_asked_for(nets: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"forward takes thing beside x: state what goes in, such as --input mask="):
        export(f"{nets}:Riddle", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="nothing is left for it"):
        export(
            f"{nets}:Pair", input=["3xHxW", "reference=3xHxW", "mask=1xHxW"], kind="image", output=tmp_path / "a.onnx"
        )


def test_the_command_takes_input_again_and_again(nets: Path, tmp_path: Path, command: Any) -> None:
    done = command(
        "gan-export",
        f"{nets}:Inpaint",
        "--input",
        "photo=3xHxW:picture",
        "--input",
        "mask=1xHxW",
        "-o",
        tmp_path / "a.onnx",
    )
    assert done.code == 0, done.err
    shown = command("gan-run", "info", tmp_path / "a.onnx")
    assert "mask: mask float32" in shown.out
    assert "--mask MASK" in shown.err
    wrong = command(
        "gan-export", f"{nets}:Inpaint", "--input", "3xHxW", "--input", "mask=1xHxW:mist", "-o", tmp_path / "b.onnx"
    )
    assert wrong.code == 2
    assert "'mist' is no role; choose image, picture, mask" in wrong.err


def test_the_graph_has_the_inputs_by_name(nets: Path, tmp_path: Path) -> None:
    """Seen by another program: the names and the values are those of the network."""
    import importlib.util

    artifact = export(f"{nets}:Inpaint", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    spec = importlib.util.spec_from_file_location("nets_again", nets)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["input", "mask"]
    mask, picture = torch.zeros(1, 1, 8, 8), torch.rand(1, 3, 8, 8)
    output = session.run(None, {"input": picture.numpy(), "mask": mask.numpy()})[0]
    assert output.shape == module.Inpaint()(mask, picture).shape


@pytest.mark.parametrize(
    ("text", "role", "distribution"),
    [
        ("mask=1xHxW", "mask", None),
        ("s=16", "vector", "normal"),
        ("noise=1x8x8", "noise", "normal"),
        ("z=8:vector:uniform", "vector", "uniform"),
        ("attr=40:vector:required", "vector", None),
        ("ref=3xHxW:picture", "image", None),
        ("w=18x512:vector", "vector", "normal"),
    ],
)
def test_inputs_are_read(text: str, role: str, distribution: str | None) -> None:
    item = read_input(text)
    assert (item.role, item.distribution) == (role, distribution)
    assert read_input(str(item)) == item


@pytest.mark.parametrize(
    "text",
    ["mask", "mask=", "=1xHxW", "mask=3xHxW:mask", "a=4:b:c:d", "a=4:vector:often", "y=5:label", "m=1xHxW:mask:normal"],
)
def test_a_wrong_input_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="--input"):
        read_input(text)


def test_the_first_input_may_have_a_name_and_a_role() -> None:
    assert read_inputs(["photo=3xHxW:picture", "mask=1xHxW"])[1] == "image"
    assert read_inputs(["z=100:latent"])[:2] == ("100", "latent")
    assert read_inputs(["3xHxW", "mask=1xHxW"])[1] == "image", "its shape says it"
    assert FurtherInput.of({"name": "s", "shape": [4], "role": "vector"}).shape == (4,)
    with pytest.raises(UsageError, match="two inputs are called mask"):
        read_inputs(["3xHxW", "mask=1xHxW", "mask=1xHxW"])
    with pytest.raises(UsageError, match="is the first input already"):
        read_inputs(["3xHxW", "1xHxW"])


def stripped(path: Path, out: Path) -> Path:
    """The same graph as a file of another program: without our manifest."""
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, out)
    return out


def test_an_onnx_file_with_a_mask_says_it_by_name(nets: Path, tmp_path: Path) -> None:
    ours = export(f"{nets}:Inpaint", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    theirs = export(stripped(ours.path, tmp_path / "theirs.onnx"), output=tmp_path / "b.onnx")
    assert ports(theirs) == ports(ours)
    assert any("mask=1xHxW:mask is taken for the input mask" in note for note in theirs.notes)
    picture, mask = np.full((9, 9, 3), 77, np.uint8), np.eye(9, dtype=np.uint8) * 255
    with load(ours.path) as a, load(theirs.path) as b:
        np.testing.assert_array_equal(a.translate(picture, mask=mask), b.translate(picture, mask=mask))


def test_an_onnx_file_with_a_style_and_a_class(nets: Path, tmp_path: Path) -> None:
    ours = export(f"{nets}:Styled", input="3xHxW", kind="image", output=tmp_path / "a.onnx")
    plain = stripped(ours.path, tmp_path / "theirs.onnx")
    theirs = export(plain, input=["3xHxW", "style=9:vector:required"], output=tmp_path / "b.onnx")
    assert theirs.manifest.interface.inputs[1].distribution is None
    with pytest.raises(UsageError, match=r"--input mask=1xHxW:mask: .* takes input"):
        export(plain, input=["3xHxW", "mask=1xHxW"], output=tmp_path / "c.onnx")
    with pytest.raises(UsageError, match=r"--input style=8:vector:normal: .* takes"):
        export(plain, input=["3xHxW", "style=8"], output=tmp_path / "c.onnx")
    domains = export(f"{nets}:Domains", input="3xHxW", kind="image", output=tmp_path / "d.onnx")
    plain = stripped(domains.path, tmp_path / "classes.onnx")
    with pytest.raises(UsageError, match="if label is a class, give --classes"):
        export(plain, output=tmp_path / "e.onnx")
    assert export(plain, classes=4, output=tmp_path / "e.onnx").manifest.interface.classes == ("0", "1", "2", "3")
