"""Videos: the same frames at the same times, the sound as it was, and nothing half-written."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from onnx import helper

from ganedge.runtime import load
from ganedge.runtime.pictures import video
from ganedge.runtime.pictures.video import translate_video

LEVELS = (40, 80, 120, 160, 200)
"""Brightness of the frames, one after the other."""
RATE = Fraction(30000, 1001)


def film(path: Path, frames: int = 5, size: tuple[int, int] = (48, 64), sound: bool = True) -> Path:
    """A video of flat greys, with a tone."""
    with av.open(str(path), "w") as out:
        shown = out.add_stream("mpeg4" if path.suffix != ".webm" else "libvpx-vp9", rate=RATE)
        shown.height, shown.width = size
        shown.pix_fmt = "yuv420p"
        heard = out.add_stream("aac", rate=44100) if sound else None
        for index in range(frames):
            picture = np.full((*size, 3), LEVELS[index % len(LEVELS)], np.uint8)
            out.mux(shown.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if heard is not None:
                tone = np.sin(np.arange(1024) / 10).astype(np.float32)[None]
                wave = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                wave.sample_rate, wave.pts = 44100, 1024 * index
                out.mux(heard.encode(wave))
        for stream in (shown, heard):
            if stream is not None:
                out.mux(stream.encode(None))
    return path


def seen(path: Path) -> tuple[list[float], list[float], Any, int]:
    """Mean level and time of each frame, the rate, and the packets of sound."""
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        found = [(float(f.to_ndarray(format="rgb24").mean()), float(f.time)) for f in video.decode(stream)]
        rate = stream.average_rate
    with av.open(str(path)) as video:
        packets = len([p for p in video.demux(audio=0) if p.size]) if video.streams.audio else 0
    return [level for level, _ in found], [moment for _, moment in found], rate, packets


@pytest.fixture
def inverter(make: Callable[..., Path]) -> Path:
    """Turns pictures into their negatives."""
    return make([helper.make_node("Neg", ["x"], ["y"])])


LINES = "WEBVTT\n\n00:00.000 --> 00:00.100\nfirst line\n\n00:00.150 --> 00:00.300\nsecond line\n"
"""Two subtitles, in the time of a film of twelve frames."""


def bilingual(path: Path) -> Path:
    """A Matroska video with English and French sound and a German subtitle track."""
    film(path.with_suffix(".mp4"), 12)
    path.with_suffix(".vtt").write_text(LINES)
    sources = [av.open(str(path.with_suffix(ending))) for ending in (".mp4", ".mp4", ".vtt")]
    picked = [sources[0].streams.video[0], sources[0].streams.audio[0], sources[1].streams.audio[0]]
    picked.append(sources[2].streams.subtitles[0])
    languages = (None, "eng", "fre", "ger")
    with av.open(str(path), "w") as out:
        copies = [out.add_stream_from_template(stream) for stream in picked]
        for copy, language in zip(copies, languages, strict=True):
            copy.metadata.update({"language": language} if language else {})
        for stream, copy in zip(picked, copies, strict=True):
            with av.open(stream.container.name) as container:
                for packet in container.demux():
                    if packet.dts is not None and packet.stream.index == stream.index:
                        packet.stream = copy
                        out.mux(packet)
    for source in sources:
        source.close()
    return path


def tracks(path: Path) -> list[tuple[str, str | None, list[bytes]]]:
    """Type, language and packets of each track that is no video."""
    with av.open(str(path)) as container:
        others = [stream for stream in container.streams if stream.type != "video"]
        held: dict[int, list[bytes]] = {stream.index: [] for stream in others}
        for packet in container.demux(others):
            if packet.size:
                held[packet.stream.index].append(bytes(packet))
        return [(stream.type, stream.metadata.get("language"), held[stream.index]) for stream in others]


def test_every_sound_and_subtitle_track_is_kept(inverter: Path, tmp_path: Path) -> None:
    source = bilingual(tmp_path / "in.mkv")
    before = tracks(source)
    assert [track[:2] for track in before] == [("audio", "eng"), ("audio", "fre"), ("subtitle", "ger")]
    assert len(before[2][2]) == 2
    with load(inverter, "onnxruntime") as generator:
        done = translate_video(generator, source, tmp_path / "out.mkv")
    assert done.sound == "2 sound tracks copied, subtitles copied"
    assert tracks(tmp_path / "out.mkv") == before


def test_tracks_that_the_container_cannot_hold_are_named(inverter: Path, tmp_path: Path) -> None:
    with load(inverter, "onnxruntime") as generator:
        done = translate_video(generator, bilingual(tmp_path / "in.mkv"), tmp_path / "out.mp4")
    assert done.sound == "2 sound tracks copied, subtitles left out: mp4 cannot hold webvtt"
    assert [track[:2] for track in tracks(tmp_path / "out.mp4")] == [("audio", "eng"), ("audio", "fre")]


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov"])
def test_frames_times_and_sound(inverter: Path, tmp_path: Path, ending: str) -> None:
    source = film(tmp_path / "in.mp4", 12)
    with load(inverter, "onnxruntime") as generator:
        done = translate_video(generator, source, tmp_path / f"out.{ending}")
    before, after = seen(source), seen(tmp_path / f"out.{ending}")
    assert (done.frames, done.sound) == (12, "sound copied")
    np.testing.assert_allclose(after[0], 255 - np.array(before[0]), atol=4)
    # Matroska moves all streams so that none begins below zero, and counts milliseconds.
    np.testing.assert_allclose(np.array(after[1]) - after[1][0], np.array(before[1]) - before[1][0], atol=0.0011)
    assert float(after[2]) == pytest.approx(float(RATE), rel=0.01)
    assert after[3] == before[3] > 0


def test_odd_sides_no_sound_and_a_container_that_cannot_hold_it(inverter: Path, tmp_path: Path) -> None:
    with load(inverter, "onnxruntime") as generator:
        odd = translate_video(generator, film(tmp_path / "a.avi", 3, (48, 64), False), tmp_path / "a.mp4")
        assert (odd.frames, odd.sound) == (3, "no sound")
        other = translate_video(generator, film(tmp_path / "b.mp4", 3), tmp_path / "b.webm")
        assert other.sound == "sound left out: webm cannot hold aac"
        assert len(seen(tmp_path / "b.webm")[0]) == 3


def test_the_command_and_its_mistakes(command: Callable[..., Any], inverter: Path, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4")
    done = command("gan-run", "translate", inverter, source, "-o", tmp_path / "out.mp4")
    assert done.code == 0, done.err
    assert "5 frames, sound copied" in done.err
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(source.read_bytes()[:900])
    there = sorted(tmp_path.iterdir())
    for arguments, code, said in (
        ((source, "-o", tmp_path / "x.gif"), 2, ".webm"),
        ((source, "-o", source), 2, "overwrite"),
        ((source, "-o", tmp_path / "y.mp4", "--format", "png"), 2, "for pictures"),
        ((tmp_path / "text.mp4", "-o", tmp_path / "y.mp4"), 1, "cannot read"),
        ((tmp_path / "cut.mp4", "-o", tmp_path / "y.mp4"), 1, "cut.mp4"),
        ((tmp_path / "none.mp4", "-o", tmp_path / "y.mp4"), 1, "none.mp4"),
    ):
        done = command("gan-run", "translate", inverter, *arguments)
        assert (done.code, done.err.count("\n")) == (code, 1), done.err
        assert said in done.err
    assert sorted(tmp_path.iterdir()) == there


def test_interrupted_it_leaves_nothing(inverter: Path, tmp_path: Path) -> None:
    source = film(tmp_path / "in.mp4", 600, (120, 160), sound=False)
    out = tmp_path / "out"
    out.mkdir()
    command = [sys.executable, "-m", "ganedge.runtime", "translate", inverter, source, "-o", out / "o.mp4"]
    with subprocess.Popen(
        [*command, "--engine", "onnxruntime"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A test in the background has it ignored.
    ) as process:
        try:
            end = time.monotonic() + 30
            while not any(out.iterdir()) and time.monotonic() < end:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=300)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "gan-run: interrupted\n")
    assert not list(out.iterdir())


def test_a_camera_is_recorded_until_it_ends(inverter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = film(tmp_path / "in.mp4", 5, sound=False)

    @contextlib.contextmanager
    def stand_in(package: Any, number: int) -> Iterator[Any]:
        assert number == 3
        with package.open(str(source)) as container:
            yield container

    monkeypatch.setattr(video, "_camera", stand_in)
    out = tmp_path / "out.mp4"
    with load(inverter, "onnxruntime") as generator:
        done = video.translate_camera(generator, 3, out)
    assert 1 <= done.frames <= 5 and done.rate > 0
    levels, times, _, _ = seen(out)
    assert len(levels) == done.frames, "frames that came too fast were left out, none was made up"
    assert abs(levels[-1] - (255 - LEVELS[4])) < 4, "the last one was not lost"
    assert times == sorted(times)


def test_ctrl_c_ends_a_recording_and_keeps_it(inverter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def decode(self, video: int) -> Iterator[Any]:
            while True:
                time.sleep(0.01)
                yield av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")

    monkeypatch.setattr(video, "_camera", lambda package, number: contextlib.nullcontext(Endless()))
    out = tmp_path / "out.mp4"
    with load(inverter, "onnxruntime") as generator:
        real, calls = generator.translate, iter(range(10))

        def translate(*given: Any, **options: Any) -> Any:
            if next(calls) == 4:
                raise KeyboardInterrupt
            return real(*given, **options)

        monkeypatch.setattr(generator, "translate", translate)
        done = video.translate_camera(generator, 0, out)
    assert done.frames == 4
    assert len(seen(out)[0]) == 4


def test_what_was_recorded_outlives_the_camera(inverter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unplugged:
        def decode(self, video: int) -> Iterator[Any]:
            for _ in range(5):
                time.sleep(0.05)
                yield av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            raise IndexError("no such device")

    monkeypatch.setattr(video, "_camera", lambda package, number: contextlib.nullcontext(Unplugged()))
    monkeypatch.setattr(video.time, "monotonic", lambda: 0.0)  # The coarsest clock there is: no two frames at once.
    out = tmp_path / "out.mp4"
    with load(inverter, "onnxruntime") as generator:
        done = video.translate_camera(generator, 0, out)
    assert done.frames >= 1 and len(seen(out)[0]) == done.frames
    assert "stopped: no such device" in done.sound


def test_a_camera_that_is_not_there_is_one_line(inverter: Path, tmp_path: Path, command: Callable[..., Any]) -> None:
    done = command("gan-run", "translate", inverter, "--camera", 77, "-o", tmp_path / "out.mp4")
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "cannot open camera 77" in done.err
    assert not (tmp_path / "out.mp4").exists()
    both = command("gan-run", "translate", inverter, tmp_path, "--camera", 0, "-o", tmp_path / "out.mp4")
    assert both.code == 2 and "or else --camera" in both.err
