"""Translate videos: same frames, same times, with their sound and subtitles.

    done = translate_video(generator, Path("walk.mp4"), Path("painting.mp4"))
    done = translate_camera(generator, 0, Path("now.mp4"))                    # until Ctrl-C

The result appears whole when it is finished; interrupted, nothing is left of it. Decoding and computing overlap.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.cli.progress import Progress
from ganedge.runtime.errors import EngineError, GanEdgeError, InputError, MissingExtra, UsageError
from ganedge.runtime.files import whole_file

from .reader import MAX_PIXELS, check_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from ganedge.runtime.generator import Generator

CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""Endings of videos that can be written, and FFmpeg's names of the containers."""
READABLE = frozenset((*CONTAINERS, ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".ogv", ".3gp"))
"""Endings that are taken for videos."""
FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,asf,flv,ogg"
"""FFmpeg's names of the containers that are read, whatever a file is called: none that names other files or hosts."""
CODECS = {"webm": ("libvpx-vp9", {"crf": "24", "b": "0"})}
"""The encoder of a container and its settings, where it is not `H264`."""
H264 = ("libx264", {"crf": "18", "preset": "veryfast"})
CAMERA_RATE = 30
"""Frames per second that a camera is asked for."""
CAMERA_CLOCK = Fraction(1, 1000)
"""Unit of a recording's times, seconds."""
HIGH_DEFINITION = 720
"""Height in pixels from which players take colours for BT.709, and below which for BT.601."""


@dataclass(frozen=True)
class Done:
    """Result of a translated video."""

    frames: int
    """Frames written."""
    rate: float
    """Frames per second of computing."""
    sound: str
    """Which sound and subtitle tracks were copied, and which were left out and why."""


@dataclass(frozen=True)
class _Moment:
    """When a frame is shown."""

    pts: int | None
    time_base: Any


def is_video(path: Path) -> bool:
    """Whether a path's ending is a video's."""
    return path.suffix.lower() in READABLE


def translate_video(generator: Generator, source: Path, target: Path, **options: Any) -> Done:
    """Take every frame of a video through a generator.

    Args:
        generator: Takes pictures and gives pictures.
        source: A video.
        target: Where the result goes; its ending names the container. H.264, or VP9 in WebM.
        **options: As `Generator.translate` takes them.

    Raises:
        MissingExtra: PyAV is not installed.
        UsageError: an ending that cannot be written, or a result over its own source.
        InputError: no video, a damaged one, or a frame that the generator does not take.
        EngineError: this PyAV lacks the encoder.
        GanEdgeError: the result cannot be written.
    """
    if target.resolve() == source.resolve():
        raise UsageError(f"{target} would overwrite the video that is read: give another output")
    av, container, encoder, settings = _writer(target)
    try:
        with contextlib.ExitStack() as stack:
            entering = stack.enter_context(_opened(av, source))
            part = stack.enter_context(whole_file(target))
            leaving = stack.enter_context(av.open(str(part), "w", format=container))
            return _Translation(av, generator, source, entering, leaving, options).run(encoder, settings)
    except av.error.FFmpegError as error:
        raise GanEdgeError(f"cannot write {target}: {error.strerror}") from error


def translate_camera(
    generator: Generator, number: int, target: Path, seconds: float | None = None, **options: Any
) -> Done:
    """Record what a generator makes of a camera, until Ctrl-C or for some seconds.

    A frame that comes while another is computed takes the place of the one that waits: the recording never lags, and
    has as many frames as the generator can do.

    Args:
        generator: Takes pictures and gives pictures.
        number: Of the camera: 0 is /dev/video0.
        target: Where the recording goes; its ending names the container. H.264, or VP9 in WebM.
        seconds: How long to record; None goes on until Ctrl-C.
        **options: As `Generator.translate` takes them.

    Raises:
        MissingExtra, UsageError, EngineError, GanEdgeError: as `translate_video`.
        InputError: no such camera, or one that gives no picture.
    """
    av, container, encoder, settings = _writer(target)
    try:
        with contextlib.ExitStack() as stack:
            camera = stack.enter_context(_camera(av, number))
            part = stack.enter_context(whole_file(target))
            leaving = stack.enter_context(av.open(str(part), "w", format=container))
            newest = stack.enter_context(_Newest(camera, f"camera {number}"))
            return _record(av, generator, newest, leaving, (encoder, settings), seconds, options)
    except av.error.FFmpegError as error:
        raise GanEdgeError(f"cannot write {target}: {error.strerror}") from error


def _record(
    av: Any,
    generator: Generator,
    newest: _Newest,
    leaving: Any,
    codec: tuple[str, dict[str, str]],
    seconds: float | None,
    options: dict[str, Any],
) -> Done:
    """Compute and encode the newest frame again and again."""
    shown: Any = None
    last = -1
    begin = time.monotonic()
    end = None if seconds is None else begin + seconds
    with Progress(None, "frames") as progress:
        try:
            while (seen_at := newest.take(end)) is not None:
                pixels, when = seen_at
                picture = generator.translate(pixels, **options)
                if shown is None:
                    shown = _video_stream(leaving, codec, CAMERA_RATE, picture, CAMERA_CLOCK)
                last = max(last + 1, round((when - begin) / CAMERA_CLOCK))
                for packet in shown.encode(_frame(av, picture, last, CAMERA_CLOCK)):
                    leaving.mux(packet)
                progress.step()
        except KeyboardInterrupt:
            if shown is None:
                raise
        if shown is None:
            raise InputError(f"{newest.name} gave no picture{newest.reason}")
        for packet in shown.encode(None):
            leaving.mux(packet)
        return Done(progress.done, progress.rate, f"no sound{newest.reason}")


class _Newest:
    """Reads a camera in a thread and keeps its newest frame only."""

    def __init__(self, camera: Any, name: str) -> None:
        self.name = name
        self._camera = camera
        self._held: tuple[NDArray[np.uint8], float] | None = None
        self._come = threading.Condition()
        self._stop = False
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)

    @property
    def reason(self) -> str:
        """Return why there are no more frames, to append to a message."""
        return f"; it stopped: {self._failed}" if self._failed is not None else ""

    def take(self, end: float | None) -> tuple[NDArray[np.uint8], float] | None:
        """The newest frame that was not taken yet and when it came.

        None once the camera gives no more, or at `end` of the monotonic clock.
        """
        with self._come:
            while self._held is None or (end is not None and time.monotonic() >= end):
                if (end is not None and time.monotonic() >= end) or not self._thread.is_alive():
                    return None
                self._come.wait(0.1)  # With a time limit, so that Ctrl-C is handled.
            held, self._held = self._held, None
            return held

    def _read(self) -> None:
        try:
            for frame in self._camera.decode(video=0):
                pixels = _upright(frame)
                with self._come:
                    self._held = (pixels, time.monotonic())
                    self._come.notify_all()
                if self._stop:
                    return
        except Exception as error:  # noqa: BLE001 - whatever a driver does, the recording is kept and says why it ended
            self._failed = error

    def __enter__(self) -> _Newest:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = True
        self._thread.join(5)  # It ends with the next frame.


class _Translation:
    """The state of one video's translation."""

    def __init__(
        self, av: Any, generator: Generator, name: Path, entering: Any, leaving: Any, options: dict[str, Any]
    ) -> None:
        self._av = av
        self._generator = generator
        self._name = name
        self._entering = entering
        self._leaving = leaving
        self._options = options
        self._moments: deque[_Moment] = deque()
        self._packets: deque[Any] = deque()
        self._copies: dict[int, Any] = {}  # Index of a track of the source → the stream that it is copied to.

    def run(self, encoder: str, settings: dict[str, str]) -> Done:
        """Decode, compute, encode."""
        seen = self._entering.streams.video[0]
        check_pixels(seen.height, seen.width, str(self._name), self._options.get("max_pixels", MAX_PIXELS))
        tracks = self._copy_tracks()
        rate = seen.average_rate or seen.guessed_rate or 25
        length = float(seen.duration * seen.time_base) if seen.duration else 0.0
        total = seen.frames or round(length * rate) or None
        shown: Any = None
        frames = self._generator.translate_many(self._frames(seen), **self._options)
        with Progress(total, "frames") as progress:
            for picture in frames:
                assert isinstance(picture, np.ndarray), "errors are raised, not given"
                if shown is None:
                    aspect = seen.sample_aspect_ratio
                    shown = _video_stream(self._leaving, (encoder, settings), rate, picture, seen.time_base, aspect)
                moment = self._moments.popleft()
                for packet in shown.encode(_frame(self._av, picture, moment.pts, moment.time_base)):
                    self._leaving.mux(packet)
                self._mux_packets()
                progress.step()
            if shown is None:
                raise InputError(f"{self._name} holds no frame that can be decoded")
            for packet in shown.encode(None):
                self._leaving.mux(packet)
            self._mux_packets()
            return Done(progress.done, progress.rate, tracks)

    def _frames(self, seen: Any) -> Iterator[NDArray[np.uint8]]:
        """The pictures in order; the time of each, and the packets of copied tracks, are kept for the writer."""
        seen.thread_type = "AUTO"
        try:
            for packet in self._entering.demux([seen, *(self._entering.streams[index] for index in self._copies)]):
                if packet.stream.index in self._copies:
                    if packet.dts is not None:
                        self._packets.append(packet)
                    continue
                for frame in packet.decode():
                    self._moments.append(_Moment(frame.pts, frame.time_base))
                    yield _upright(frame)
        except self._av.error.FFmpegError as error:
            raise InputError(f"{self._name} is damaged: {error.strerror}") from error

    def _copy_tracks(self) -> str:
        """Open a stream for each sound and subtitle track that the container can hold; say what became of all."""
        streams = self._entering.streams
        notes = [
            self._copy_group("sound", "sound track", streams.audio),
            self._copy_group("subtitles", "subtitle track", streams.subtitles),
        ]
        if not streams.audio:
            notes[0] = "no sound"
        if len(streams.video) > 1:
            notes.append(f"the first of {len(streams.video)} video tracks used, the others left out")
        return ", ".join(note for note in notes if note)

    def _copy_group(self, name: str, unit: str, tracks: Sequence[Any]) -> str:
        """Copy tracks of one type; return a note such as `sound copied` or `1 of 2 sound tracks copied, ...`."""
        refusals = [reason for track in tracks if (reason := self._copy_track(track)) is not None]
        copied = len(tracks) - len(refusals)
        reasons = "; ".join(dict.fromkeys(refusals))
        if not copied:
            return f"{name} left out: {reasons}" if tracks else ""
        if refusals:
            return f"{copied} of {len(tracks)} {unit}s copied, the others left out: {reasons}"
        return f"{name} copied" if copied == 1 else f"{copied} {unit}s copied"

    def _copy_track(self, track: Any) -> str | None:
        """Open a stream for one track; return why the container cannot hold it, or None."""
        if track.codec_context is None:
            return "of an unknown codec"
        codec = track.codec_context.codec
        name = self._leaving.format.name
        if not {codec.canonical_name, codec.name} & set(self._leaving.supported_codecs):
            return f"{name} cannot hold {codec.canonical_name}"
        try:
            copy = self._leaving.add_stream_from_template(track)
        except (self._av.error.FFmpegError, ValueError, TypeError):
            return f"this PyAV cannot copy {codec.canonical_name}"
        copy.metadata.update(track.metadata)
        self._copies[track.index] = copy
        return None

    def _mux_packets(self) -> None:
        while self._packets:
            packet = self._packets.popleft()
            packet.stream = self._copies[packet.stream.index]
            self._leaving.mux(packet)


def _video_stream(
    leaving: Any,
    codec: tuple[str, dict[str, str]],
    rate: Any,
    picture: NDArray[np.uint8],
    time_base: Fraction,
    aspect: Any = None,
) -> Any:
    """The stream of the results, which have the size of the first."""
    encoder, settings = codec
    stream = leaving.add_stream(encoder, rate=rate, options=settings)
    stream.height, stream.width = picture.shape[:2]
    # The widely supported half colour resolution needs an even width and height.
    stream.pix_fmt = "yuv420p" if stream.height % 2 == stream.width % 2 == 0 else "yuv444p"
    stream.codec_context.time_base = time_base
    if aspect:
        stream.codec_context.sample_aspect_ratio = aspect
    stream.codec_context.colorspace = 1 if stream.height >= HIGH_DEFINITION else 5
    return stream


def _frame(av: Any, picture: NDArray[np.uint8], pts: int | None, time_base: Any) -> Any:
    """A picture as a frame of its moment; grey becomes colour, and a video shows no alpha."""
    colours = np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture[..., :3]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(colours), format="rgb24")
    high = picture.shape[0] >= HIGH_DEFINITION
    even = picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    frame = frame.reformat(format="yuv420p" if even else "yuv444p", dst_colorspace="ITU709" if high else "ITU601")
    frame.pts, frame.time_base = pts, time_base
    return frame


def _upright(frame: Any) -> NDArray[np.uint8]:
    """A frame's pixels; a camera's note on which way is up is followed."""
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


@contextlib.contextmanager
def _opened(av: Any, source: Path) -> Iterator[Any]:
    """A video to read."""
    try:
        # Absolute, because a name such as 12:30.mp4 is no protocol.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        entering = av.open(str(source.absolute()), options=options)
    except av.error.ArgumentError as error:
        known = ", ".join(sorted(READABLE))
        raise InputError(f"{source} is no video that is read: give one of {known}, and no list of others") from error
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"cannot read {source}: {error.strerror or 'it is no video'}") from error
    with entering:
        if not entering.streams.video or entering.streams.video[0].codec_context is None:
            raise InputError(f"{source} holds no pictures that can be decoded")
        yield entering


@contextlib.contextmanager
def _camera(av: Any, number: int) -> Iterator[Any]:
    """A camera of Linux."""
    device = f"/dev/video{number}"
    try:
        camera = av.open(device, format="video4linux2", options={"framerate": str(CAMERA_RATE)})
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot open camera {number} ({device}): {reason}; is it plugged in and free?") from error
    with camera:
        yield camera


def _writer(target: Path) -> tuple[Any, str, str, dict[str, str]]:
    """PyAV, and the container, encoder and settings of a video to write."""
    container = CONTAINERS.get(target.suffix.lower())
    if container is None:
        raise UsageError(f"cannot tell the video format of {target}: end it in {', '.join(CONTAINERS)}")
    av = _package()
    encoder, settings = CODECS.get(container, H264)
    if encoder not in av.codecs_available:
        raise EngineError(f"this PyAV cannot write {target.suffix}, it has no {encoder}: pip install -U av")
    return av, container, encoder, settings


def _package() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtra("av", "video", "translating a video") from error
    return av
