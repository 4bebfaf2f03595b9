"""A generator, ready to use: the whole of what a device calls.

from ganedge.runtime import load

with load("generator.onnx") as generator:
    pictures = generator.sample(16, seed=0)          # uint8 [16, H, W, C]
with load("monet2photo.onnx") as generator:
    picture = generator.translate("painting.jpg")    # uint8 [H, W, C], the painting's own size
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from . import tuning
from .conditions import Conditions, InputStream
from .engines import EngineOptions, start
from .errors import ArtifactError, EngineError, EngineMismatch, GanEdgeError, InputError, MissingExtra, UsageError
from .latents import between
from .manifest import read_artifact
from .pictures.images import all_finite, to_pixels
from .pictures.reader import MAX_PIXELS, Depth

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from .engines import Engine, EngineInfo, Parts
    from .manifest import Manifest, Port
    from .pictures.shared_norm import SharedNorm
    from .pictures.translation import Options, State, Tiles

T = TypeVar("T")
OnError = Literal["raise", "yield"]
BATCH_ELEMENTS = 2**22
"""Output values computed in one engine call unless `batch` says otherwise: 16 MiB of float32."""
MAX_ITEMS = 2**31
"""Items drawn in one call at most."""
MAX_BATCH = 64
"""Items in one engine call unless `batch` says otherwise: beyond it throughput gains little and memory grows."""


def load(
    path: str | os.PathLike[str],
    engine: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    *,
    rebuild: bool = False,
    tune: bool = False,
) -> Generator:
    """Open an artifact that `gan-export` wrote.

    Args:
        path: An `.onnx` file; an `.engine` with its `.engine.json` beside it, which runs in the TensorRT that built it;
            or the folder that `gan-export --format ncnn` wrote, or the `.param` file in it, which runs in ncnn.
        engine: "onnxruntime", "openvino", an alias of them, or "auto": what was measured fastest on this machine, by
            the export, `gan-run` or `tune`; or else the one that the artifact was made for, or the first that is
            installed and proven for it.
        device: "cpu", "cuda", "auto", "vulkan" for ncnn, or "tensorrt": ONNX Runtime's TensorRT provider,
            which builds an engine at the first call of a shape.
        threads: Threads of the engine's own pool; None leaves the choice to the engine.
        batch: Items in one engine call at most; None chooses by size.
        rebuild: Build an `.engine` that is damaged, or of another TensorRT or device, again from the ONNX file beside
            it, and replace it, which takes minutes; otherwise it is refused.
        tune: Where "auto" knows nothing of this artifact on this machine, measure the installed engines first, which
            takes a second or two, and remember the fastest.

    Returns:
        A generator; safe to call from several threads.

    Raises:
        ArtifactError: the file is not an artifact, is damaged, or is from a newer schema.
        EngineError: the engine or device cannot be had (`MissingExtra` where a package is missing), or the engine
            failed the artifact's proof.
        UsageError: an argument out of range.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"batch is {batch}: give 1 or more, or leave it out")
    engine = EngineOptions(engine, device, threads).engine
    if Path(path).suffix == ".engine":
        return _load_engine(Path(path), engine, device, batch, rebuild)
    if Path(path).suffix != ".onnx":
        from .ncnn_file import param_path

        param = param_path(Path(path))
        if param is not None:
            return _load_ncnn(param, engine, device, threads, batch)
    manifest, model = read_artifact(Path(path))
    tuning.refuse_failed(manifest, engine)
    automatic = (engine, device) == ("auto", "auto")
    if tune and automatic:
        tuning.tune_once(model, manifest, threads)
    chosen = tuning.choose(manifest, threads) if automatic else None
    if chosen is not None:
        tuned = tuning.start_tuned(model, manifest, chosen, threads)
        if tuned is not None:
            return Generator(
                manifest,
                tuned,
                batch,
                Path(path),
                lambda data: start(data, manifest.precision, chosen.engine, chosen.device, threads),
            )
    failed = tuple(manifest.failed)
    started = start(
        model, manifest.precision, engine, device, threads, proven=tuning.preferred(manifest), failed=failed
    )

    def again(data: bytes) -> Engine:
        return start(data, manifest.precision, started.info.name, device, threads)

    return Generator(manifest, started, batch, Path(path), again)


def _load_engine(path: Path, engine: str, device: str, batch: int | None, rebuild: bool) -> Generator:
    """Open a TensorRT engine: only the TensorRT that built it can run it, and only on CUDA."""
    from .engine_file import check_engine, read_sidecar
    from .engines import trt

    manifest, identity = read_sidecar(path)
    if engine not in ("auto", "tensorrt", identity.flavour) or device not in ("auto", "cuda"):
        raise UsageError(
            f"{path} runs in {identity.flavour} on cuda only: leave engine and device out, or load {identity.onnx}"
        )
    largest = min((shapes[2][0] for shapes in identity.profiles.values()), default=MAX_BATCH)
    least = max((shapes[0][0] for shapes in identity.profiles.values()), default=1)
    if batch is not None and batch > largest:
        raise UsageError(f"batch is {batch}: {path} was built for {largest} at most")
    try:
        started = trt.start(check_engine(path, identity), identity)
    except (ArtifactError, EngineMismatch, MissingExtra):
        if not rebuild:
            raise
        from .engines import trt_builder

        identity, data = trt_builder.rebuild(path, manifest, identity)
        started = trt.start(data, identity)
    return Generator(manifest, started, min(batch or largest, largest), least=least)


def _load_ncnn(param: Path, engine: str, device: str, threads: int | None, batch: int | None) -> Generator:
    """Open an ncnn network, after checking that it is the one that was exported."""
    from .engines import ncnn
    from .ncnn_file import read_network, read_sidecar

    manifest, identity = read_sidecar(param)
    if engine not in ("auto", "ncnn"):
        raise UsageError(f"{param} runs in ncnn only: leave engine {engine} out, or load the .onnx")
    text, weights = read_network(param, identity)
    return Generator(manifest, ncnn.start(text, weights, identity, manifest.interface, device, threads), batch)


class Generator:
    """An artifact in an engine. Use `load` to make one, and `with` or `close` to let it go.

    Attributes:
        manifest: What the artifact says of itself.
        engine: What really runs it: engine, provider, device, precision.
        batch: Items in one engine call at most.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        batch: int | None = None,
        path: Path | None = None,
        again: Callable[[bytes], Engine] | None = None,
        least: int = 1,
    ) -> None:
        self.manifest = manifest
        self._interface = manifest.interface
        self._engine: Engine | None = engine
        fixed = self._interface.inputs[0].shape[0]
        self.batch = fixed if isinstance(fixed, int) else batch or _default_batch(self._interface.output)
        self._least = fixed if isinstance(fixed, int) else least
        self._lock = threading.Lock()
        self._state: State | None = None
        self._path = path
        self._again = again
        self._shared: SharedNorm | None = None

    @property
    def engine(self) -> EngineInfo:
        """Engine, device and precision that run the artifact, as reported by the engine."""
        return self._running().info

    def run(self, *inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """Compute the bare output of one batch.

        Args:
            *inputs: One array per input of the interface, in its order, of exactly the dtype and shape it names.

        Returns:
            The output tensor as the engine gives it, in the output port's dtype, layout and range.

        Raises:
            InputError: a wrong number of arrays, dtype, shape, or batches that differ.
            EngineError: the engine fails, or gives another number of items.
        """
        return self.run_all(*inputs)[0]

    def run_all(self, *inputs: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
        """As `run`, for every output of the interface in its order: the result, and those kept beside it."""
        ports = self._interface.outputs
        outputs = self._running().run(self._feeds(inputs))[: len(ports)]
        if len(ports) > 1:
            self._check_outputs(outputs)
        for output in outputs:
            if output.shape[:1] != inputs[0].shape[:1]:  # OpenVINO with one thread returns nothing, without an error.
                shown = f"{output.shape} came out for a batch of {len(inputs[0])}"
                raise EngineError(f"{self.engine.name} could not run this model: {shown}")
        return tuple(outputs)

    def _check_outputs(self, outputs: Sequence[NDArray[np.generic]]) -> None:
        """Raise EngineError unless these are the outputs that the manifest names, by their number and shapes."""
        ports = self._interface.outputs
        fits = len(outputs) == len(ports) and all(
            len(port.shape) == output.ndim
            and all(isinstance(a, str) or a == b for a, b in zip(port.shape[1:], output.shape[1:], strict=True))
            for port, output in zip(ports, outputs, strict=False)
        )
        if not fits:
            shown = ", ".join(str(output.shape) for output in outputs)
            named = ", ".join(f"{port.name} {' × '.join(map(str, port.shape))}" for port in ports)
            raise EngineError(f"{self.engine.name} gave {shown}, and the manifest names {named}: export it again")

    def parts(self, *inputs: NDArray[np.generic]) -> Parts | None:
        """Where the time of one call goes, as `run` takes it: copying in, computing, copying out, seconds.

        None where nothing is copied, because the engine computes where the arrays are.
        """
        timed: Callable[[Mapping[str, NDArray[np.generic]]], Parts] | None
        timed = getattr(self._running(), "parts", None)
        return None if timed is None else timed(self._feeds(inputs))

    def _feeds(self, inputs: Sequence[NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """The inputs by name, after making sure that they are what the interface names."""
        ports = self._interface.inputs
        if len(inputs) != len(ports):
            names = ", ".join(port.name for port in ports)
            raise InputError(f"this generator takes {len(ports)} input(s) ({names}), {len(inputs)} given")
        for port, array in zip(ports, inputs, strict=True):
            _check_array(port, array)
        if len({len(array) for array in inputs}) != 1:
            raise InputError(f"the inputs' batches differ: {', '.join(str(len(array)) for array in inputs)}")
        return {port.name: array for port, array in zip(ports, inputs, strict=True)}

    def compute(self, *inputs: NDArray[np.generic]) -> NDArray[np.generic]:
        """As `run`, for any number of items up to `batch`.

        Where the artifact takes a fixed number at a time, or its engine a smallest one, the last item fills the rest,
        whose results are dropped.
        """
        return self.compute_all(*inputs)[0]

    def compute_all(self, *inputs: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
        """As `compute`, for every output of the interface in its order."""
        arrays = all(isinstance(array, np.ndarray) and array.ndim for array in inputs)
        items = len(inputs[0]) if inputs and arrays else 0
        if not 1 <= items < self._least or any(len(array) != items for array in inputs):
            return self.run_all(*inputs)  # Raises the error if an input is wrong.
        filled = [np.concatenate([array, np.repeat(array[-1:], self._least - items, axis=0)]) for array in inputs]
        return tuple(output[:items] for output in self.run_all(*filled))

    def sample(
        self,
        n: int,
        seed: int | None = None,
        label: int | str | None = None,
        truncation: float | None = None,
        style: Any = None,
    ) -> NDArray[np.generic]:
        """Draw new items.

        Args:
            n: How many, 1 or more.
            seed: 0 to 2³² - 1: the same seed gives the same latents on every engine and machine; None: new ones.
            label: A class, 0 to the number of classes - 1 or its name, for all of them; None takes the classes in turn.
                Only where the generator is conditional.
            truncation: Keep latents within ± this, 0.01 or more: less variety, more typical items. None: as trained.
                Where the generator has an input `truncation`, what goes into that, 0 to 2: 1 is as trained.
            style: Values of a vector input for all of them: an array, numbers with commas or a .npy file; None draws
                them from the seed where the manifest says how.

        Returns:
            uint8 `[n, H, W, C]`, or float32 points `[n, 2]`.

        Raises:
            UsageError: an argument out of range, or a generator that takes pictures rather than latents.
            InputError: the generator gave NaN or infinite values.
        """
        if not 1 <= n <= MAX_ITEMS:
            raise UsageError(f"n is {n}: give 1 to {MAX_ITEMS}")
        stream = InputStream(self._interface, Conditions(label, style), seed, truncation)
        items: NDArray[np.generic] | None = None
        for begin in range(0, n, self.batch):
            end = min(begin + self.batch, n)
            part = self.finish(self.compute(*stream.take(end - begin)))
            if items is None:
                items = part if end == n else _room(n, part)
            items[begin:end] = part
        assert items is not None
        return items

    def interpolate(
        self,
        seed_a: int,
        seed_b: int,
        steps: int,
        label: int | str | None = None,
        truncation: float | None = None,
        style: Any = None,
    ) -> NDArray[np.generic]:
        """Go from one item to another through latent space: the first items of two seeds, and what lies between.

        Args:
            seed_a: Where to start, 0 to 2³² - 1.
            seed_b: Where to end.
            steps: Items in all, both ends included, 2 or more.
            label: A class for all of them; None takes the first. Only where the generator is conditional.
            truncation: As in `sample`.
            style: As in `sample`, for all of them; None takes that of the first seed.

        Returns:
            uint8 `[steps, H, W, C]`, or float32 points `[steps, 2]`.

        Raises:
            UsageError: an argument out of range, or a generator that takes pictures rather than latents.
            InputError: the generator gave NaN or infinite values.
        """
        inputs = self.interpolation_inputs(seed_a, seed_b, steps, label, truncation, style)
        parts = [slice(begin, begin + self.batch) for begin in range(0, steps, self.batch)]
        return np.concatenate([self.finish(self.compute(*(array[part] for array in inputs))) for part in parts])

    def sample_inputs(
        self,
        n: int,
        seed: int | None = None,
        label: int | str | None = None,
        truncation: float | None = None,
        style: Any = None,
    ) -> list[NDArray[np.generic]]:
        """The inputs from which `sample` makes its items, as `run` takes them: one array per input.

        For callers that bring their items together into batches of their own; `finish` completes what comes out.
        Arguments and errors are those of `sample`.
        """
        if not 1 <= n <= MAX_ITEMS:
            raise UsageError(f"n is {n}: give 1 to {MAX_ITEMS}")
        return InputStream(self._interface, Conditions(label, style), seed, truncation).take(n)

    def interpolation_inputs(
        self,
        seed_a: int,
        seed_b: int,
        steps: int,
        label: int | str | None = None,
        truncation: float | None = None,
        style: Any = None,
    ) -> list[NDArray[np.generic]]:
        """The inputs from which `interpolate` makes its items. Arguments and errors are those of `interpolate`."""
        if steps < 2:
            raise UsageError(f"steps is {steps}: give 2 or more")
        conditions = Conditions(0 if label is None and self._interface.classes else label, style)
        first, last = (InputStream(self._interface, conditions, seed, truncation).take(1) for seed in (seed_a, seed_b))
        assert self._interface.noise is not None, "checked by InputStream"
        latents = between(self._interface.noise, first[0][0], last[0][0], steps)
        return [latents, *(np.repeat(values, steps, axis=0) for values in first[1:])]

    def sample_outputs(self, n: int, seed: int | None = None, **options: Any) -> dict[str, NDArray[np.generic]]:
        """As `sample`, but every output by its name: the result, and those that the export kept beside it.

        Args:
            n: As in `sample`, as are `seed` and the options.
            seed: See there.
            **options: `label`, `truncation` and `style`.

        Returns:
            The result as `sample` gives it; pictures and masks as uint8 `[n, H, W, C]`, other values as they are.
        """
        if not 1 <= n <= MAX_ITEMS:
            raise UsageError(f"n is {n}: give 1 to {MAX_ITEMS}")
        inputs = self.sample_inputs(n, seed, **options)
        parts = [slice(begin, begin + self.batch) for begin in range(0, n, self.batch)]
        batches = [self.compute_all(*(array[part] for array in inputs)) for part in parts]
        return {
            port.name: np.concatenate([self.finish(tensor, port) for tensor in tensors])
            for port, tensors in zip(self._interface.outputs, zip(*batches, strict=True), strict=True)
        }

    def finish(self, tensor: NDArray[np.generic], port: Port | None = None) -> NDArray[np.generic]:
        """Turn what `run` gave into what `sample` gives: pictures as uint8 `[N, H, W, C]`, points as they are.

        Args:
            tensor: A batch of an output.
            port: Which of the interface's outputs; the result by default.

        Raises:
            InputError: it holds NaN or infinite values.
        """
        port = port or self._interface.output
        if not port.is_picture or port.range is None:
            if not np.isfinite(tensor).all():
                raise InputError("the generator gave NaN or infinite values: verify the artifact")
            return tensor
        return to_pixels(tensor, port.range, port.layout)

    def translate(
        self,
        picture: Any,
        *,
        resize: bool = False,
        memory: int | None = None,
        tiles: Tiles = "auto",
        overlap: int | None = None,
        max_pixels: int = MAX_PIXELS,
        depth: Depth = 8,
        label: int | str | None = None,
        mask: Any = None,
        style: Any = None,
        seed: int = 0,
    ) -> NDArray[Any]:
        """Turn one picture into another, at its own size.

        Args:
            picture: A path; a Pillow image; or a uint8 array `[H, W]` or `[H, W, C]`, C 1, 3 or 4.
            resize: Where the generator takes one size only: scale the picture to it, and the result back.
            memory: Bytes the work may take beyond the decoded picture and its result: a picture that needs more is
                done in tiles. None: always whole.
            tiles: "auto" refuses tiles where the generator normalises over the whole picture, so that they would
                look different; "shared" takes the statistics of the reduced picture for all of them, which is close
                (it needs the onnx package); "always" gives each its own; "never" takes the picture whole whatever it
                needs.
            overlap: Pixels that a tile sees beyond the part it decides. None: as many as an output pixel depends on,
                where the artifact says that, else 64.
            max_pixels: Refuse larger pictures before they are decoded.
            depth: Bits per channel of the result, 8 or 16; "source" for 16 where a grey picture has more than 8 and
                the generator takes and returns grey floats.
            label: A class, its number or its name, where the generator takes one.
            mask: A mask as large as the picture, where the generator takes one: as `picture`, white is 1.
            style: Values of a vector input (an array, numbers with commas or a .npy file), or a second picture.
            seed: Of vectors and noise that are drawn because none are given.

        Returns:
            uint8 (or uint16) `[H, W, C]`: height and width times the generator's scale, the output's channels, and
            alpha where the picture had it.

        Raises:
            UsageError: an argument out of range, or a generator that takes latents rather than pictures.
            InputError: a picture that cannot be read, is too large, has a size that this generator does not take, or
                that it turned into NaN or infinite values.
        """
        from .pictures.stack import mask_of
        from .pictures.translation import Options

        options = Options(resize, memory, tiles, overlap, max_pixels, label, mask_of(mask, picture), style, seed, depth)
        return self._translate(picture, options)

    def translate_many(
        self,
        pictures: Iterable[Any],
        *,
        resize: bool = False,
        memory: int | None = None,
        tiles: Tiles = "auto",
        overlap: int | None = None,
        max_pixels: int = MAX_PIXELS,
        depth: Depth = 8,
        label: int | str | None = None,
        mask: Any = None,
        style: Any = None,
        seed: int = 0,
        errors: OnError = "raise",
    ) -> Iterator[NDArray[Any] | GanEdgeError]:
        """Turn many pictures into others; the next is decoded while one is computed.

        Args:
            pictures: As `translate` takes them; a few are taken ahead.
            resize: As in `translate`, as are `memory`, `tiles`, `overlap`, `max_pixels` and `depth`.
            memory: See there.
            tiles: See there.
            overlap: See there.
            max_pixels: See there.
            depth: See there.
            label: See there, as are `style` and `seed`; the same for all pictures.
            mask: One mask for all, or a folder with a mask for each picture's name; pictures are paths then.
            style: See there.
            seed: See there.
            errors: "raise" ends at the first picture that cannot be done; "yield" gives its error in its place. What
                makes no sense for any picture raises in either case.

        Yields:
            What `translate` returns, in the order of the pictures.
        """
        from .pictures.translation import Options

        options = Options(resize, memory, tiles, overlap, max_pixels, label, mask, style, seed, depth)
        return self._many(pictures, options, errors, self._translate)

    def translate_outputs(self, picture: Any, **options: Any) -> dict[str, NDArray[Any]]:
        """As `translate`, but every output by its name: the result, and those that the export kept beside it.

        Args:
            picture: As in `translate`, as are the options.
            **options: The keyword arguments of `translate`. A picture that needs tiles is refused: only whole pictures
                have further outputs.

        Returns:
            The result as `translate` gives it; pictures and masks as uint8 `[H, W, C]`, and of other values one item
            of the tensor.
        """
        from .pictures.stack import mask_of
        from .pictures.translation import Options

        return self._translate_outputs(picture, Options(**{**options, "mask": mask_of(options.get("mask"), picture)}))

    def translate_many_outputs(
        self, pictures: Iterable[Any], *, errors: OnError = "raise", **options: Any
    ) -> Iterator[dict[str, NDArray[Any]] | GanEdgeError]:
        """As `translate_many`, but every output of each picture by its name, as `translate_outputs` gives them."""
        from .pictures.translation import Options

        return self._many(pictures, Options(**options), errors, self._translate_outputs)

    def _many(
        self, pictures: Iterable[Any], options: Options, errors: OnError, translate: Callable[[Any, Options], T]
    ) -> Iterator[T | GanEdgeError]:
        """Do many pictures; the next is decoded while one is computed."""
        from .pictures.pipeline import ordered
        from .pictures.stack import mask_of
        from .pictures.translation import read

        if errors not in ("raise", "yield"):
            raise UsageError(f"errors is {errors!r}: choose raise or yield")

        def decode(picture: Any) -> Any:
            try:
                return read(picture, self.manifest, options), replace(options, mask=mask_of(options.mask, picture))
            except GanEdgeError as error:
                return error

        def compute(decoded: Any) -> Any:
            try:
                return decoded if isinstance(decoded, GanEdgeError) else translate(*decoded)
            except UsageError:  # The error would be the same for every picture.
                raise
            except GanEdgeError as error:
                return error

        for result in ordered(pictures, decode, compute):
            if isinstance(result, GanEdgeError) and errors == "raise":
                raise result
            yield result

    def close(self) -> None:
        """Free the engine. Calling it twice is fine; using the generator afterwards is an error."""
        if self._shared is not None:
            self._shared.close()
            self._shared = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else str(self._engine.info)
        return f"<Generator {self._interface.kind} {self.manifest.precision} on {state}>"

    def _repr_html_(self) -> str:
        """A table of what the artifact takes, returns and runs in, for notebooks."""
        from html import escape

        ports = (*self._interface.inputs, *self._interface.outputs)
        rows = [("generator", f"{self._interface.kind}, {self.manifest.precision}")]
        rows += [(port.name, f"{port.role}, {port.dtype} {' × '.join(map(str, port.shape))}") for port in ports]
        if self._interface.classes:
            rows.append(("classes", str(len(self._interface.classes))))
        rows += [("engine", "closed" if self._engine is None else str(self._engine.info))]
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
        return f"<table>{cells}</table>"

    def _running(self) -> Engine:
        if self._engine is None:
            raise UsageError("this generator is closed: load it again")
        return self._engine

    def _translate(self, picture: Any, options: Options) -> NDArray[np.uint8]:
        from .pictures.translation import State, translate

        with self._lock:
            self._state = state = self._state or State()
        share = None if self._again is None else self._share
        return translate(self.compute, self.manifest, picture, options, state, share)

    def _translate_outputs(self, picture: Any, options: Options) -> dict[str, NDArray[Any]]:
        from .pictures.translation import State, translate_outputs

        with self._lock:
            self._state = state = self._state or State()
        return translate_outputs(self.compute_all, self.manifest, picture, options, state)

    def _share(self, reduced: NDArray[np.generic]) -> Callable[[NDArray[np.generic]], NDArray[np.generic]]:
        """Return a run that normalises with the statistics of this picture."""
        from .pictures.shared_norm import SharedNorm

        with self._lock:
            if self._shared is None:
                assert self._path is not None
                assert self._again is not None
                manifest, model = read_artifact(self._path)
                if manifest.digest != self.manifest.digest:
                    raise ArtifactError(f"{self._path} was replaced since it was loaded: load it again")
                self._shared = SharedNorm(model, self._again)
        return self._shared.of(reduced)


def _room(n: int, part: NDArray[np.generic]) -> NDArray[np.generic]:
    """Allocate the array for all items after the first batch, so that a lack of memory shows before the others."""
    try:
        return np.empty((n, *part.shape[1:]), part.dtype)
    except (MemoryError, ValueError):
        size = n * part[0].nbytes / 1e9
        raise UsageError(f"n is {n}: that is {size:.0f} GB at once; draw fewer at a time") from None


def _default_batch(port: Port) -> int:
    elements = int(np.prod(port.item_shape))
    return max(1, min(MAX_BATCH, BATCH_ELEMENTS // max(elements, 1)))


def _check_array(port: Port, array: NDArray[np.generic]) -> None:
    """Check an input, because an engine's own message would be less clear."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"{port.name} is {type(array).__name__}: give a numpy array of {port.dtype}")
    if array.dtype != port.dtype:
        raise InputError(f"{port.name} is {array.dtype}: give {port.dtype}")
    fits = array.ndim == len(port.shape) and all(
        isinstance(size, str) or size == actual for size, actual in zip(port.shape, array.shape, strict=True)
    )
    if not fits or array.size == 0:
        expected = " × ".join(str(size) for size in port.shape)
        raise InputError(f"{port.name} has shape {array.shape}: give {expected}, with a batch of 1 or more")
    if array.dtype.kind == "f" and not all_finite(array):
        raise InputError(f"{port.name} holds NaN or infinite values")
    if port.is_picture and port.multiple > 1:
        height, width = array.shape[2:] if port.layout == "NCHW" else array.shape[1:3]
        if height % port.multiple or width % port.multiple:
            raise InputError(
                f"{port.name} is {height} × {width}: height and width must be multiples of {port.multiple}"
            )
