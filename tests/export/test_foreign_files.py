"""Files and folders of other tools: each is named, with its next step, in one line."""

from __future__ import annotations

import doctest
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ganedge.export import foreign_files
from ganedge.export.checkpoints import read_checkpoint
from ganedge.export.foreign_files import refuse_foreign, zip_content
from ganedge.export.modules import open_pickle
from ganedge.export.open_source import open_source
from ganedge.export.source import SourceSpec, kind_of
from ganedge.runtime.errors import ArtifactError
from ganedge.runtime.manifest import read_artifact

Command = Callable[..., Any]


def zipped(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("g.h5", b"\x89HDF\r\n\x1a\n", r"an HDF5 file, as Keras writes: export it from Keras"),
        ("renamed.pth", b"\x89HDF\r\n\x1a\n", r"an HDF5 file"),
        ("frozen.pb", b"\x0a\x12\x0a", r"frozen TensorFlow graph: .*tf2onnx.convert --graphdef .*frozen.pb"),
        ("g.tflite", b"\x1c\0\0\0TFL3", r"TFLite network: .*--tflite"),
        ("g.mlmodel", b"\x08\x04\x12", r"Core ML network: it cannot be turned back"),
        ("g.engine", b"ftrt\0\0", r"TensorRT engine: it cannot be turned back"),
        ("g.xml", b"<?xml version='1.0'?><net>", r"OpenVINO network: give the .onnx file"),
        ("g.pth", b"hello\nworld", r"a text file that begins with 'hello'"),
        ("g.pth", b"\n<!DOCTYPE html><html>", r"a web page, not the file: download"),
        ("g.onnx", b"<html>", r"a web page"),
        ("g.pth", b"version https://git-lfs.github.com/spec/v1\n", r"Git LFS pointer, not the file: run git lfs pull"),
        ("g.onnx", b"", r"is empty \(0 bytes\)"),
        ("g.pth", b"\x01\x02\xff\xfe" * 9, r"neither a zip file nor a pickle"),
        ("g.pth", b"PK\x03\x04cut off", r"cut off or damaged, a zip file without its end"),
        ("g.pth.gz", b"\x1f\x8b\x08", r"an archive: unpack it"),
        ("g.png", b"\x89PNG", r"a picture: .*gan-run translate"),
    ],
)
def test_a_file_of_another_tool_is_named_with_its_next_step(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        open_source(str(path), SourceSpec())
    with pytest.raises(ArtifactError, match=message):
        read_checkpoint(path)


def test_zip_files_are_told_apart(tmp_path: Path) -> None:
    zipped(tmp_path / "all.zip", "ck/netG.pth", "readme.md")
    with pytest.raises(ArtifactError, match=r"a zip archive with ck/netG.pth: unpack it"):
        refuse_foreign(tmp_path / "all.zip")
    zipped(tmp_path / "g.keras", "config.json", "model.weights.h5")
    with pytest.raises(ArtifactError, match=r"a Keras network: export it"):
        refuse_foreign(tmp_path / "g.keras")
    np.savez(tmp_path / "w.npz", a=np.ones(2))
    with pytest.raises(ArtifactError, match=r"NumPy arrays without a network: write a function"):
        refuse_foreign(tmp_path / "w.npz")
    torch.save({"a": torch.ones(1)}, tmp_path / "w.zip")
    assert zip_content(tmp_path / "w.zip") == "weights"
    refuse_foreign(tmp_path / "w.zip")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"saved_model.pb": ""}, r"SavedModel: .*tf2onnx.convert --saved-model"),
        ({"model_index.json": "{}"}, r"a pipeline of diffusers.* FILE.py:NAME of the one to export"),
        ({"config.json": json.dumps({"architectures": ["X"]})}, r"a folder of Hugging Face: .*from_pretrained\('.*in'"),
        ({".metadata": "", "__0_0.distcp": ""}, r"distributed checkpoint: .*dcp_to_torch"),
        ({"zero_to_fp32.py": ""}, r"DeepSpeed"),
        ({"checkpoint": "", "model.ckpt.index": ""}, r"a TensorFlow checkpoint"),
        ({"netG.pth": "", "netD.pth": ""}, r"a folder and no run of gan-train: give one of its files, netD.pth, netG"),
        ({"nets.py": ""}, r"give FILE.py:NAME of its code, nets.py"),
    ],
)
def test_a_folder_is_named_with_its_next_step(files: dict[str, str], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    for spec in (SourceSpec(), SourceSpec(arch="auto")):
        with pytest.raises(ArtifactError, match=message):
            open_source(str(folder), spec, {"kind"})
    with pytest.raises(ArtifactError, match=message):
        read_checkpoint(folder)


def test_safetensors_of_another_framework(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "flax.safetensors", {"format": "flax"})
    with pytest.raises(ArtifactError, match=r"weights of flax, as its header says: give those of PyTorch"):
        read_checkpoint(tmp_path / "flax.safetensors")
    save_file({"a": torch.ones(2)}, tmp_path / "torch.safetensors", {"format": "pt"})
    assert list(read_checkpoint(tmp_path / "torch.safetensors")[0]) == ["a"]


def test_weights_are_recognised_whatever_they_are_called(tmp_path: Path) -> None:
    for name in ("model.pth.tar", "pytorch_model.bin", "weights"):
        torch.save({"a": torch.ones(2)}, tmp_path / name)
        assert kind_of(str(tmp_path / name)) == "a pickled module"
        assert list(read_checkpoint(tmp_path / name)[0]) == ["a"]


def test_a_path_that_is_misspelt(tmp_path: Path) -> None:
    (tmp_path / "netG.pth").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"nteG.pth does not exist; near: netG.pth; give a run"):
        open_source(str(tmp_path / "nteG.pth"), SourceSpec())
    with pytest.raises(ArtifactError, match=r"the folder .*none does not exist either"):
        read_checkpoint(tmp_path / "none" / "netG.pth")


def test_what_pickle_wrote_is_read_when_it_is_trusted(tmp_path: Path) -> None:
    """StyleGAN2-ADA writes its networks with pickle.dump."""
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"G_ema": nn.Linear(3, 2), "augment_pipe": None}))
    with pytest.raises(ArtifactError, match=r"written by pickle.dump, as StyleGAN2 does.*--trust"):
        read_checkpoint(path)
    assert isinstance(open_pickle(path, SourceSpec(trust=True)).network, nn.Linear)


def test_a_checkpoint_is_no_artifact(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "netG.pth")
    with pytest.raises(ArtifactError, match=r"a checkpoint, not an artifact: make one of it with gan-export"):
        read_artifact(tmp_path / "netG.pth")


def test_the_command_prints_one_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "g.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    done = command("gan-export", tmp_path / "g.h5", "--kind", "latent")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "Keras" in done.err


def test_examples_run() -> None:
    assert doctest.testmod(foreign_files).failed == 0
