"""Each sentence of SECURITY.md, tried: the table at the end says which test holds which."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import pickle
import random
import re
import socket
import sys
import zipfile
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from ganedge.runtime import onnx_file
from ganedge.runtime.engine_file import EngineIdentity, sidecar_path, write_sidecar
from ganedge.runtime.manifest import KEY, read_artifact

Command = Callable[..., Any]
ROOT = Path(__file__).parents[2]
NETS = "import torch\nclass Generator(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(6, 12)\n"
GIVEN = ("--input", 6, "--kind", "latent", "--output-shape", "3x2x2", "--tolerance", "none")


class Payload:
    """What runs when it is unpickled: it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.mark,))


def forged(artifact: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of an artifact that says something else, with the digest that fits."""
    body, metadata = onnx_file.split(artifact.read_bytes())
    said = json.loads(metadata[KEY])
    change(said)
    said["digest"] = ""
    text = json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass") + b"".join(body)).hexdigest()
    said["digest"] = f"sha256:{digest}"
    path.write_bytes(onnx_file.join(body, {KEY: json.dumps(said)}))
    return path


def one_line(done: Any, code: int, said: str) -> None:
    assert done.code == code, done.err
    assert said in done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.replace("\n", "").isprintable()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def translator(inverter: Path, here: Path) -> Path:
    """An artifact that gives every picture back inverted, beside nothing else."""
    return inverter


def test_a_damaged_artifact_never_reaches_an_engine(
    command: Command, artifact: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganedge.runtime import generator

    monkeypatch.setattr(generator, "start", lambda *a, **k: pytest.fail("an engine was started"))
    data = artifact.read_bytes()
    for place in (40, len(data) // 2, len(data) - 9):
        (here / "bad.onnx").write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert command("gan-run", "sample", "bad.onnx", "-o", "x.png").code == 1
        assert not (here / "x.png").exists()


def test_a_digest_can_be_made_by_anyone(artifact: Path, here: Path) -> None:
    path = forged(artifact, here / "forged.onnx", lambda said: said["source"].update(step=12345))
    assert read_artifact(path)[0].source.step == 12345


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", "weights.bin"])
def test_no_weights_from_outside(command: Command, artifact: Path, here: Path, location: str) -> None:
    (here / "models").mkdir()
    (here / "secret.bin").write_bytes(np.ones(18, np.float32).tobytes())
    (here / "models" / "link.bin").symlink_to(here / "secret.bin")
    shape = ("batch", 6)
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, s)
        for name, s in (("z", shape), ("y", ("batch", 3)))
    ]
    weight = onnx.TensorProto(name="w", data_type=1, dims=[6, 3], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["z", "w"], ["y"])], "g", values[:1], values[1:], [weight]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    bare = here / "models" / "bare.onnx"
    bare.write_bytes(model.SerializeToString())
    done = command("gan-export", bare, "--kind", "latent", "-o", "out.onnx")
    assert done.code == 1, done.err
    assert done.err.count("\n") == 1
    body, _ = onnx_file.split(bare.read_bytes())
    _, metadata = onnx_file.split(artifact.read_bytes())
    bare.write_bytes(onnx_file.join(body, metadata))
    one_line(command("gan-run", "sample", bare, "-o", "x.png"), 1, "weights in other files")
    assert not list(here.glob("*.png")) + list(here.glob("*.onnx"))


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["interface"]["outputs"][0].update(shape=["batch", 1, 10**6, 10**6]),
        lambda said: said["interface"]["outputs"][0].update(shape=["batch", 1, 65536, 65536]),
        lambda said: said["interface"]["inputs"][0].update(shape=[-1, 6]),
        lambda said: said["interface"]["inputs"][0].update(shape=["batch", 10**12]),
        lambda said: said["interface"]["outputs"][0].update(multiple=-4),
        lambda said: said["interface"].update(classes=["x"] * 100_000),
    ],
)
def test_impossible_sizes_are_refused(
    command: Command, artifact: Path, here: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = forged(artifact, here / "forged.onnx", change)
    one_line(command("gan-run", "sample", path, "-o", "x.png"), 1, "cannot be right")


ODD = ("\x1b[2J\x1b]0;owned\x07", "a\nb", "\u202egnp.exe", "\x9b31m")


@pytest.mark.parametrize("text", ODD)
def test_text_in_manifests_does_not_steer_the_terminal(command: Command, artifact: Path, here: Path, text: str) -> None:
    for field in ("data", "variant", "program"):
        path = forged(artifact, here / "forged.onnx", lambda said, field=field: said["source"].update({field: text}))
        one_line(command("gan-run", "info", path), 1, "control characters")


@pytest.mark.parametrize("text", ODD)
def test_names_of_files_do_not_steer_the_terminal(command: Command, translator: Path, here: Path, text: str) -> None:
    (here / "in").mkdir()
    (here / "in" / f"{text}.png").write_bytes(b"no picture")
    done = command("gan-run", "translate", translator, "in", "-o", "out")
    assert done.code == 3
    assert done.err.replace("\n", "").isprintable()
    assert done.err.count("\n") == 2, "one for the picture, one in all"


def test_script_in_a_manifest_stays_text(command: Command, artifact: Path, here: Path) -> None:
    text = "<script>alert(1)</script>"
    path = forged(artifact, here / "forged.onnx", lambda said: said["source"].update(data=text))
    assert text in command("gan-run", "info", path).out


def test_pickles_are_never_executed(command: Command, tiny_run: Path, here: Path) -> None:
    mark = here / "executed"
    (here / "nets.py").write_text(NETS)
    pickles = {"plain.pth": pickle.dumps(Payload(mark)), "lies.safetensors": pickle.dumps(Payload(mark))}
    torch.save({"state_dict": {"weight": Payload(mark)}}, here / "torch.pth")
    torch.save({"weight": Payload(mark)}, here / "old.pth", _use_new_zipfile_serialization=False)
    for name, data in pickles.items():
        (here / name).write_bytes(data)
    for name in (*pickles, "torch.pth", "old.pth"):
        for arguments in (
            ("gan-export", "nets.py:Generator", *GIVEN, "--weights", name),
            ("gan-export", name, "--arch", "resnet_9blocks"),
            ("gan-train", "dcgan", "--data", "digits", "--out", "new", "--init", name, "--steps", 1),
        ):
            done = command(*arguments)
            assert done.code in (1, 2), (arguments, done.err)
            assert len(done.err.splitlines()) == 1, done.err
            assert not mark.exists(), arguments
    assert "--trust" in command("gan-export", "nets.py:Generator", *GIVEN, "--weights", "torch.pth").err


def test_a_run_folder_is_never_unpickled(command: Command, tiny_run: Path, here: Path) -> None:
    import shutil

    mark = here / "executed"
    for name in ("generator.safetensors", "checkpoints/00000008/state.safetensors", "checkpoints/00000008/state.json"):
        shutil.rmtree(here / "run", ignore_errors=True)
        shutil.copytree(tiny_run, here / "run")
        (here / "run" / name).write_bytes(pickle.dumps(Payload(mark)))
        if name.startswith("generator"):
            done = command("gan-export", "run", "-o", "x.onnx")
        else:
            done = command(
                "gan-train", "dcgan", "--data", "digits", "--out", "run", "--resume", "--device", "cpu", "--steps", 9
            )
        one_line(done, 1, "damaged")
        assert not mark.exists()


def test_a_checkpoint_with_a_flipped_bit_is_refused(command: Command, tiny_run: Path, here: Path) -> None:
    import shutil

    shutil.copytree(tiny_run, here / "run")
    path = here / "run" / "checkpoints" / "00000008" / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # The lowest bit of a number: nothing else would tell.
    path.write_bytes(data)
    done = command(
        "gan-train", "dcgan", "--data", "digits", "--out", "run", "--resume", "--device", "cpu", "--steps", 9
    )
    one_line(done, 1, "digest does not match")


def test_a_stored_proof_is_no_bomb_and_no_pickle(command: Command, artifact: Path, here: Path) -> None:
    mark = here / "executed"
    path = here / "g.onnx"
    path.write_bytes(artifact.read_bytes())
    proof = here / "g.onnx.proof.npz"
    np.savez(proof, input0=np.array([Payload(mark)], dtype=object), output=np.zeros(1))
    one_line(command("gan-run", "verify", path), 1, "no stored proof")
    assert not mark.exists()
    with zipfile.ZipFile(proof, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("output.npy", "w", force_zip64=True) as file:
            for _ in range(70):
                file.write(bytes(2**24))
        archive.writestr("../../slipped.npy", b"x")
    assert proof.stat().st_size < 2**21
    one_line(command("gan-run", "verify", path), 1, "would unpack to 1.17 GB")
    with zipfile.ZipFile(proof, "w") as archive:
        archive.writestr("../../slipped.npy", b"x")
    one_line(command("gan-run", "verify", path), 1, "no stored proof")
    assert not (here.parents[1] / "slipped.npy").exists()


def bomb(path: Path, side: int) -> Path:
    """A PNG of a few bytes that claims to be side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )
    return path


def test_decompression_bombs_are_refused_before_they_unfold(command: Command, translator: Path, here: Path) -> None:
    (here / "in").mkdir()
    bomb(here / "in" / "bomb.png", 60_000)
    Image.new("RGB", (8, 8), "red").save(here / "in" / "good.png")
    done = command("gan-run", "translate", translator, "in", "-o", "out")
    assert done.code == 3
    assert "3600 million pixels" in done.err
    assert [path.name for path in (here / "out").iterdir()] == ["good.png"]
    done = command("gan-export", translator, "--int8", "--calibrate", "in", "-o", "out.onnx", "--tolerance", "none")
    one_line(done, 1, "bomb.png")
    options = ("--size", 16, "--width", 8, "--batch", 1, "--steps", 1, "--device", "cpu")
    done = command("gan-train", "dcgan", "--data", "in", "--out", "run", *options)
    assert "bomb.png" in done.err


def test_links_out_of_a_folder_are_not_followed(command: Command, translator: Path, here: Path) -> None:
    (here / "private").mkdir()
    (here / "in").mkdir()
    Image.new("RGB", (8, 8), "red").save(here / "private" / "secret.png")
    Image.new("RGB", (8, 8), "red").save(here / "in" / "good.png")
    (here / "in" / "link").symlink_to(here / "private", target_is_directory=True)
    (here / "in" / ".hidden.png").write_bytes((here / "in" / "good.png").read_bytes())
    assert command("gan-run", "translate", translator, "in", "-o", "out").code == 0
    assert [str(path.relative_to(here / "out")) for path in (here / "out").rglob("*")] == ["good.png"]


@pytest.mark.parametrize(
    "name", ["-o.png", "--help.png", "-.png", "a\nb.png", "ü ñ 🖼.png", os.fsdecode(b"\xff\xfe.png")]
)
def test_odd_names_are_names(command: Command, translator: Path, here: Path, name: str) -> None:
    (here / "in").mkdir()
    Image.new("RGB", (8, 8), "red").save(here / "in" / "x.png")
    (here / "in" / "x.png").rename(here / "in" / name)
    done = command("gan-run", "translate", translator, "in", "-o", "out")
    assert done.code == 0, done.err
    assert [path.name for path in (here / "out").iterdir()] == [name]
    (here / name).write_bytes((here / "in" / name).read_bytes())
    done = command("gan-run", "translate", "-o", "one.png", translator, "--", name)
    assert done.code == 0, done.err


def test_results_stay_below_the_output(command: Command, translator: Path, here: Path) -> None:
    (here / "deep" / "in").mkdir(parents=True)
    (here / "deep" / "side").mkdir()
    Image.new("RGB", (8, 8), "red").save(here / "deep" / "in" / "good.png")
    done = command("gan-run", "translate", translator, "deep/side/../in", "deep/in/../in/good.png", "-o", "out")
    assert done.code == 2, "both would be one file"
    assert command("gan-run", "translate", translator, "deep/side/../in/*.png", "-o", "out").code == 0
    found = sorted(str(path.relative_to(here)) for path in here.rglob("good.png"))
    assert found == ["deep/in/good.png", "out/good.png"]


@pytest.mark.parametrize(
    "entry",
    [
        {"engine": "os", "version": "1", "device": "cpu", "compute": None},
        {"engine": "../../evil", "version": "1", "device": "cpu", "compute": None},
        {"engine": "onnxruntime", "version": "1", "device": "tpu", "compute": "bf16"},
        {"engine": ["onnxruntime"], "version": None, "device": "cpu", "compute": None},
        {"engine": "openvino", "version": 7, "device": {}, "compute": 7},
        "onnxruntime",
        None,
    ],
)
def test_the_tuning_cache_is_advice(
    command: Command, artifact: Path, here: Path, monkeypatch: pytest.MonkeyPatch, entry: Any
) -> None:
    from ganedge.runtime import tuning

    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    path = tuning.cache_file()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({tuning._key(read_artifact(artifact)[0].digest, None): entry}))
    done = command("gan-run", "sample", artifact, "-n", 1, "--seed", 0, "-o", "x.png")
    assert done.code == 0, done.err


def test_a_python_file_is_executed(command: Command, here: Path) -> None:
    mark = here / "executed"
    (here / "nets.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n{NETS}")
    assert command("gan-export", "nets.py:Generator", *GIVEN, "-o", "x.onnx").code == 0
    assert mark.is_dir()


def test_trust_executes_a_checkpoint(command: Command, here: Path) -> None:
    mark = here / "executed"
    (here / "nets.py").write_text(NETS)
    torch.save({"weight": Payload(mark)}, here / "x.pth")
    command("gan-export", "nets.py:Generator", *GIVEN, "--weights", "x.pth", "--trust", "-o", "x.onnx")
    assert mark.is_dir()


def engine(here: Path, artifact: Path, data: bytes) -> Path:
    """An engine that is described beside it."""
    path = here / "generator.engine"
    path.write_bytes(data)
    identity = EngineIdentity(
        "tensorrt",
        "10.3.0",
        "sm87",
        (),
        {"latent": ((1, 6), (1, 6), (16, 6))},
        onnx="generator.onnx",
        engine_digest=hashlib.sha256(data).hexdigest(),
    )
    write_sidecar(path, read_artifact(artifact)[0], identity)
    return path


def test_an_engine_must_be_the_one_described(
    command: Command, artifact: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganedge.runtime.engines import trt

    path = engine(here, artifact, b"an engine")
    assert command("gan-run", "info", path).code == 0
    monkeypatch.setattr(trt, "start", lambda *a, **k: pytest.fail("it was loaded"))
    path.write_bytes(b"an engineX")
    for arguments in (("info", path), ("sample", path, "-o", "x.png")):
        one_line(command("gan-run", *arguments), 1, "cut off, damaged or replaced")


def test_an_engine_without_description_is_refused(command: Command, artifact: Path, here: Path) -> None:
    path = engine(here, artifact, b"an engine")
    sidecar_path(path).unlink()
    one_line(command("gan-run", "sample", path, "-o", "x.png"), 1, "must lie beside the engine")


def test_what_pillow_raises_is_one_line(
    command: Command, translator: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trusted to read, not to be polite: whatever exception a decoder ends in is the picture's failure alone."""
    (here / "in").mkdir()
    Image.new("RGB", (8, 8), "red").save(here / "in" / "x.png")
    monkeypatch.setattr(Image, "open", lambda *a, **k: 1 / 0)
    done = command("gan-run", "translate", translator, "in", "-o", "out")
    assert done.code == 3
    assert "ZeroDivisionError" in done.err


def suite(name: str) -> Any:
    """A module of the suites beside this file, which are run by name and are no package."""
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def film(path: Path, frames: int = 1) -> Path:
    """A video of black pictures, 64 × 48."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        out.mux(stream.encode(None))
    return path


def test_videos_of_too_many_pixels_are_refused_before_they_are_decoded(
    command: Command, translator: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ganedge.runtime.pictures import video

    monkeypatch.setattr(video._Translation, "_frames", lambda *a: pytest.fail("it was decoded"))
    done = command(
        "gan-run", "translate", translator, film(here / "x.mp4"), "-o", "out.mp4", "--max-pixels", 64 * 47 / 1e6
    )
    one_line(done, 1, "64 × 48")
    assert not (here / "out.mp4").exists()


VIDEO_LISTS = {
    "concat": "ffconcat version 1.0\nfile {secret}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", VIDEO_LISTS)
@pytest.mark.parametrize("ending", [".mp4", ".ts", ".mkv"])
def test_videos_that_name_other_files_are_refused(
    command: Command, translator: Path, here: Path, kind: str, ending: str
) -> None:
    secret = film(here / "secret.mp4")
    assert command("gan-run", "translate", translator, secret, "-o", "sound.mp4").code == 0, "the video itself is read"
    listed = here / f"list{ending}"
    listed.write_text(VIDEO_LISTS[kind].format(secret=secret.name))
    one_line(command("gan-run", "translate", translator, listed, "-o", "out.mp4"), 1, listed.name)
    assert not (here / "out.mp4").exists()


def test_damaged_videos_end_in_one_line_or_whole(command: Command, translator: Path, here: Path) -> None:
    av = pytest.importorskip("av")
    data = film(here / "sound.mp4", 12).read_bytes()
    codes = set()
    for seed in range(24):
        damaged, _ = suite("mutate").mutate(data, random.Random(seed))
        (here / "damaged.mp4").write_bytes(damaged)
        done = command("gan-run", "translate", translator, "damaged.mp4", "-o", "out.mp4", "--engine", "onnxruntime")
        codes.add(done.code)
        if done.code == 0:
            with av.open("out.mp4") as out:
                assert sum(1 for _ in out.decode(video=0))
            (here / "out.mp4").unlink()
        else:
            one_line(done, 1, "damaged.mp4")
        assert sorted(path.name for path in here.iterdir()) == ["damaged.mp4", "inverter.onnx", "sound.mp4"]
    assert codes == {0, 1}


def test_any_bytes_are_answered_by_a_server(artifact: Path, inverter: Path) -> None:
    pytest.importorskip("uvicorn")
    said = suite("asked").campaign((artifact, inverter), 300, 0, print)
    assert said["findings"] == []
    assert said["cases"] == 300
    assert {"200", "400"} <= said["answers"].keys()


def test_the_judge_of_answers_sees_what_is_wrong() -> None:
    complaint = suite("asked").complaint
    assert complaint(b"") == "" == complaint(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert complaint(b"HTTP/1.1 500 Internal Server Error\r\n\r\n").startswith("status 500")
    assert complaint(b"Traceback").startswith("no answer")


def test_a_local_server_keeps_others_out_and_asks_nobody_who_he_is(artifact: Path) -> None:
    pytest.importorskip("uvicorn")
    asked = suite("asked")
    sound = asked.request("/sample", b'{"seed": 1}')
    with suite("soak").serving(artifact, "onnxruntime", False) as served:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", served.port), timeout=5)  # This machine too, by another address.
        assert asked.ask(served.port, sound).startswith(b"HTTP/1.1 200"), "no password, no encryption"
        for other in (
            sound.replace(b"Host: localhost", b"Host: evil.example"),
            sound.replace(b"\r\n", b"\r\nSec-Fetch-Site: cross-site\r\n", 1),
            b"GET /about HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\nConnection: close\r\n\r\n",
        ):
            assert asked.ask(served.port, other).startswith(b"HTTP/1.1 403")
    assert served.wrong == []


class Tags(HTMLParser):
    """The names of a page's tags and of their attributes, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one tag."""
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_text_from_files_never_becomes_markup(command: Command, artifact: Path, here: Path) -> None:
    pytest.importorskip("jinja2")
    text = "<script>alert(1)</script>"
    path = forged(artifact, here / "<img src=x onerror=alert(1)>.onnx", lambda said: said["source"].update(data=text))
    asked = ("--seconds", 0, "--iterations", 1, "--batch", 1, "--processes", 0, "--engine", "onnxruntime")
    done = command("gan-bench", path, *asked, "--html", "page.html")
    assert done.code == 0, done.err
    page = (here / "page.html").read_text("utf-8")
    assert "&lt;img src=x" in page, "it is shown"
    tags = Tags(page)
    assert "img" in tags.names
    assert not {"script", "iframe", "object", "embed"} & tags.names
    assert not [name for name in tags.attributes if name.startswith("on")]
    pytest.importorskip("uvicorn")
    with suite("soak").serving(path, "onnxruntime", False) as served:
        about, page = (
            suite("asked").ask(served.port, f"GET {place} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()).decode()
            for place in ("/about", "/")
        )
    assert text in about
    assert "content-type: application/json" in about
    assert "x-content-type-options: nosniff" in about
    assert text not in page
    assert "innerHTML" not in page
    assert "script-src 'sha256-" in page


HELD_BY = {
    "S1": (test_a_damaged_artifact_never_reaches_an_engine,),
    "S2": (test_a_digest_can_be_made_by_anyone,),
    "S3": (test_no_weights_from_outside,),
    "S4": (test_impossible_sizes_are_refused,),
    "S5": (test_text_in_manifests_does_not_steer_the_terminal, test_names_of_files_do_not_steer_the_terminal),
    "S6": (test_pickles_are_never_executed,),
    "S7": (test_a_run_folder_is_never_unpickled, test_a_checkpoint_with_a_flipped_bit_is_refused),
    "S8": (test_a_stored_proof_is_no_bomb_and_no_pickle,),
    "S9": (
        test_decompression_bombs_are_refused_before_they_unfold,
        test_videos_of_too_many_pixels_are_refused_before_they_are_decoded,
    ),
    "S10": (test_links_out_of_a_folder_are_not_followed,),
    "S11": (test_odd_names_are_names, test_results_stay_below_the_output),
    "S12": (test_the_tuning_cache_is_advice,),
    "S18": (test_videos_that_name_other_files_are_refused,),
    "S19": (test_damaged_videos_end_in_one_line_or_whole,),
    "S20": (test_any_bytes_are_answered_by_a_server,),
    "S21": (test_a_local_server_keeps_others_out_and_asks_nobody_who_he_is,),
    "S22": (test_text_from_files_never_becomes_markup,),
    "S13": (test_a_python_file_is_executed,),
    "S14": (test_trust_executes_a_checkpoint,),
    "S15": (test_an_engine_must_be_the_one_described,),
    "S16": (test_an_engine_without_description_is_refused,),
    "S17": (test_what_pillow_raises_is_one_line,),
    "S23": (test_a_local_server_keeps_others_out_and_asks_nobody_who_he_is,),
}
"""The sentences of SECURITY.md by number, and what holds each."""


def test_each_sentence_is_held() -> None:
    lines = [line for line in (ROOT / "SECURITY.md").read_text("utf-8").splitlines() if line.startswith("- ")]
    numbers = [re.match(r"- \*\*(S\d+)\*\* ", line) for line in lines]
    assert all(numbers), "a sentence without a number"
    assert [found[1] for found in numbers if found] == list(HELD_BY)
