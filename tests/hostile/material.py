"""One small sound specimen of every kind of file that the commands read, made by the commands themselves."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import guarded
import numpy as np

TINY = ("--size", 16, "--width", 8, "--latent", 6, "--batch", 16, "--sample-every", 4)
CPU = ("--device", "cpu", "--precision", "fp32", "--data", "digits")
MODULE = """
import torch


class Generator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.grow = torch.nn.ConvTranspose2d(6, 3, 8)

    def forward(self, latent):
        return torch.tanh(self.grow(latent))
"""


def make(folder: Path) -> Path:
    """Make all specimens below `folder`, which must be empty or not exist. Call `guarded.preload` before.

    Raises:
        RuntimeError: a command failed on sound input.
    """
    _must("gan-train", "dcgan", *CPU, "--out", "run", "--steps", 8, *TINY, folder=folder)
    _must("gan-export", "run", "-o", "generator.onnx", folder=folder)
    for maker in (_module, _translator, _engine, _pictures, _proof, _film):
        _in_fork(maker, folder)
    _must("gan-run", "tune", "generator.onnx", "--seconds", 0, folder=folder)
    return folder


def _must(name: str, *arguments: object, folder: Path) -> None:
    done = guarded.run(name, arguments, folder, limit_s=300)
    if done.code:
        raise RuntimeError(f"{name} {' '.join(map(str, arguments))} failed: {done.err}")


def _in_fork(maker: object, folder: Path) -> None:
    """Call a maker in a process of its own, because it may start threads."""
    import os

    child = os.fork()
    if child == 0:
        code = 1
        try:
            maker(folder)  # type: ignore[operator]
            code = 0
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{maker} failed")


def _module(folder: Path) -> None:
    """A foreign network with its weights in both formats."""
    import safetensors.torch
    import torch

    (folder / "nets.py").write_text(MODULE, "utf-8")
    torch.manual_seed(0)
    state = {"grow.weight": torch.randn(6, 3, 8, 8), "grow.bias": torch.zeros(3)}
    torch.save(state, folder / "nets.pth")
    safetensors.torch.save_file(state, folder / "nets.safetensors")


def _translator(folder: Path) -> None:
    """An image-to-image artifact of one convolution, any size."""
    from onnx import TensorProto, helper, numpy_helper

    from ganedge.runtime.manifest import Interface, Manifest, Port, write_artifact

    shape = ("batch", 3, "height", "width")
    ports = [Port(name, "image", "float32", shape, "NCHW", (-1.0, 1.0), 1) for name in ("x", "y")]
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32) / 5
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), helper.make_node("Tanh", ["c"], ["y"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(kernel, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    manifest = Manifest(Interface("image-to-image", (ports[0],), (ports[1],)), "fp32", "none")
    (folder / "translator.onnx").write_bytes(write_artifact(model.SerializeToString(), manifest))
    (folder / "bare.onnx").write_bytes(model.SerializeToString())


def _engine(folder: Path) -> None:
    """An engine that no library will take, with a description that fits it."""
    from ganedge.runtime.engine_file import EngineIdentity, write_sidecar
    from ganedge.runtime.manifest import read_artifact

    data = np.random.default_rng(1).bytes(4096)
    (folder / "generator.engine").write_bytes(data)
    manifest, _ = read_artifact(folder / "generator.onnx")
    identity = EngineIdentity(
        flavour="tensorrt",
        version="10.3.0",
        compute_capability="sm87",
        targets=(),
        profiles={"latent": ((1, 6), (1, 6), (16, 6))},
        onnx="generator.onnx",
        onnx_digest=hashlib.sha256((folder / "generator.onnx").read_bytes()).hexdigest(),
        engine_digest=hashlib.sha256(data).hexdigest(),
    )
    write_sidecar(folder / "generator.engine", manifest, identity)


def _pictures(folder: Path) -> None:
    """The same picture in every format that is read, and a list of them."""
    from PIL import Image

    y, x = np.mgrid[0:24, 0:32]
    levels = np.stack([8 * x, 10 * y, 4 * (x + y)], -1).clip(0, 255).astype(np.uint8)
    pictures = folder / "pictures"
    pictures.mkdir()
    image = Image.fromarray(levels)
    for ending in ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm", "tga"):
        image.save(pictures / f"picture.{ending}")
    (folder / "list.csv").write_text("".join(f"{path},{path.suffix[1:]}\n" for path in sorted(pictures.iterdir())))


def _proof(folder: Path) -> None:
    """The stored reference that `gan-run verify` reads."""
    from ganedge.runtime import load
    from ganedge.runtime.inputs import real_inputs

    with load(folder / "generator.onnx", "onnxruntime") as generator:
        inputs = real_inputs(generator.manifest.interface)
        output = np.concatenate([generator.run(inputs[0][i : i + 1]) for i in range(len(inputs[0]))])
    np.savez(folder / "generator.onnx.proof.npz", input0=inputs[0], output=output)


def _film(folder: Path) -> None:
    """A video of a second in several containers, with sound where they take it."""
    import av

    for ending, codec in (
        ("mp4", "mpeg4"),
        ("mkv", "mpeg4"),
        ("avi", "mpeg4"),
        ("webm", "libvpx-vp9"),
        ("ts", "mpeg2video"),
    ):
        with av.open(str(folder / f"film.{ending}"), "w") as out:
            shown = out.add_stream(codec, rate=25)
            shown.height, shown.width, shown.pix_fmt = 48, 64, "yuv420p"
            heard = out.add_stream("aac", rate=44100) if ending in ("mp4", "mkv") else None
            for index in range(25):
                picture = np.full((48, 64, 3), 10 * index, np.uint8)
                out.mux(shown.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                if heard is not None:
                    tone = np.sin(np.arange(1024) / 10).astype(np.float32)[None]
                    wave = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                    wave.sample_rate, wave.pts = 44100, 1024 * index
                    out.mux(heard.encode(wave))
            for stream in filter(None, (shown, heard)):
                out.mux(stream.encode(None))
