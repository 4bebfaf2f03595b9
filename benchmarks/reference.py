"""The PyTorch generator that artifacts are compared with. Needs torch.

network = open_reference(ReferenceSpec("runs/digits"), manifest)
network = open_reference(ReferenceSpec("nets.py:Generator", SourceSpec(weights="netG.pth")), manifest)
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ganedge.benchmarks.competitor import NOT_ASKED, SPLITS, TORCH, WARM_SPLITS, Competitor, Split
from ganedge.export import modules
from ganedge.export.arrange import OneHot
from ganedge.export.bounds import RANGES
from ganedge.export.checkpoints import LoadedModule
from ganedge.export.from_torch import per_picture, unwrap
from ganedge.export.further import FurtherInput
from ganedge.export.open_source import check_format
from ganedge.export.source import SourceSpec, kind_of
from ganedge.runtime.cli.terminal import note
from ganedge.runtime.errors import EngineError, GanEdgeError, InputError, UsageError, one_line
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Interface, Manifest
from ganedge.train import checkpoint, run_folder

Inputs = Sequence[NDArray[np.generic]]
Maker = Callable[[nn.Module, Inputs, str], "Competitor"]
SHAPES = 64
"""Most input shapes that torch.compile may compile for, each separately."""


@dataclass(frozen=True)
class ReferenceSpec:
    """Description of the generator to compare with, which can be passed to other processes."""

    source: str
    """A run's folder; or a module or checkpoint in any form that gan-export takes."""
    spec: SourceSpec = field(default_factory=SourceSpec)
    """Description of the source, as far as it does not describe itself."""
    plain: bool = False
    """Whether it is known to return one tensor and to take class numbers."""

    @property
    def is_run(self) -> bool:
        """Whether the source is a run's folder rather than a module or a checkpoint."""
        return kind_of(self.source, self.spec.arch) == "a run"

    def to_json(self) -> str:
        """Return it as text, to pass to another process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> ReferenceSpec:
        """Read what `to_json` returned."""
        content = json.loads(text)
        return cls(content["source"], SourceSpec(**content["spec"]), content["plain"])


def open_reference(reference: ReferenceSpec, manifest: Manifest) -> nn.Module:
    """Open the network that an artifact came from.

    Args:
        reference: The source and its description.
        manifest: Manifest of the artifact, which names the generator and its normalisation mode.

    Returns:
        The network in evaluation mode, FP32, on the CPU, with the artifact's inputs and outputs.

    Raises:
        ArtifactError: no run, or weights that do not fit.
        UsageError: no such module.
        InputError: its inputs or outputs differ from the artifact's.
    """
    check_format(Path(reference.source))
    if reference.is_run:
        network, span = _of_run(Path(reference.source), manifest)
        network, output_span = unwrap(network).eval().float(), span
    else:
        loaded = _open_module(reference, manifest)
        network, own = loaded.network.eval(), (loaded.spec.input_range, loaded.spec.result_range)
        span, output_span = map(tuple, manifest.source.config.get(RANGES, own))
    if manifest.norm_mode == "batch":
        network = per_picture(network)
    if "uint8" in (manifest.interface.inputs[0].dtype, manifest.interface.output.dtype):
        network = Bytes(network, manifest.interface, span, output_span)
    for parameter in network.parameters():  # TorchScript has no requires_grad_ of the whole.
        parameter.requires_grad_(False)
    return network


def _open_module(reference: ReferenceSpec, manifest: Manifest) -> LoadedModule:
    """Open the module or checkpoint; without naming a part if these weights have no parts."""
    spec = _completed(reference.spec, manifest)
    try:
        return modules.open_network(reference.source, spec, reference.plain)
    except UsageError:
        if spec.part is None:
            raise
    return modules.open_network(reference.source, replace(spec, part=None), reference.plain)


def _completed(spec: SourceSpec, manifest: Manifest) -> SourceSpec:
    """Return the specification with the inputs that the artifact's manifest describes."""
    interface = manifest.interface
    port = interface.inputs[0]
    if port.role == "image":
        rows, columns = port.sides
        height, width = rows if isinstance(rows, int) else "H", columns if isinstance(columns, int) else "W"
        text = f"{port.channels}x{height}x{width}"
    else:
        text = "x".join(map(str, port.shape[1:]))
    return replace(
        spec,
        input=text,
        kind="image" if port.role == "image" else "latent",
        noise=interface.noise or "normal",
        classes=interface.classes,
        further=tuple(map(FurtherInput.of_port, interface.inputs[1:])),
        part=manifest.source.generator if _names_part(manifest) else None,
    )


def _names_part(manifest: Manifest) -> bool:
    """Whether the artifact was made from one of several parts of a checkpoint, not from a run."""
    return not manifest.source.data and manifest.source.generator != "generator"


def is_plain(network: nn.Module) -> bool:
    """Whether the network returns one tensor and takes class numbers without a wrapper."""
    return not any(isinstance(module, (OneHot, modules.SelectedOutput)) for module in network.modules())


def _of_run(folder: Path, manifest: Manifest) -> tuple[nn.Module, tuple[float, float]]:
    """Return the run's generator that the artifact was made from, and its values of black and white."""
    opened = run_folder.read(folder)
    interfaces = opened.variant(opened.config).generators()
    name = manifest.source.generator if manifest.source.generator in interfaces else next(iter(interfaces))
    network, source = opened.generator(name)
    if source.weights != manifest.source.weights and manifest.source.step in checkpoint.steps(folder):
        network, source = opened.generator(name, str(manifest.source.step))  # Exported with --checkpoint.
    if source.weights != manifest.source.weights:
        note(f"{folder} holds other weights than the artifact was exported from")
    return network, interfaces[name].output.range or (-1.0, 1.0)


class Bytes(nn.Module):
    """Wraps a network of floats so that it takes and returns bytes `[N, H, W, C]`, as `--io uint8` artifacts do.

    Args:
        network: Takes and returns floats, `[N, C, H, W]`.
        interface: Interface of the artifact.
        span: Values of black and white in the network's input.
        output_span: Values of black and white in its output.
    """

    def __init__(
        self,
        network: nn.Module,
        interface: Interface,
        span: tuple[float, float],
        output_span: tuple[float, float],
    ) -> None:
        super().__init__()
        self.network, self.span, self.output_span = network, span, output_span
        self.decodes = interface.inputs[0].dtype == "uint8"
        self.encodes = interface.output.dtype == "uint8"

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        """Decode, compute, encode."""
        if self.decodes:
            low, high = self.span
            first = first.permute(0, 3, 1, 2).float() * ((high - low) / 255) + low
        images: Tensor = self.network(first, *rest)
        if not self.encodes:
            return images
        low, high = self.output_span
        levels = ((images - low) * (255 / (high - low)) + 0.5).clamp(0, 255).floor()
        return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def check(network: nn.Module, interface: Interface, inputs: Inputs) -> None:
    """Raise InputError if the network does not take these inputs or returns another shape than the artifact."""
    try:
        with torch.inference_mode():
            shape = tuple(network(*map(torch.from_numpy, inputs)).shape)
    except Exception as error:  # A user's module may raise anything.
        raise InputError(
            f"the generator to compare with does not take the artifact's inputs ({one_line(error)}): "
            "give the run or the module that it was exported from"
        ) from error
    fixed = interface.output.shape
    if len(shape) != len(fixed) or any(
        isinstance(b, int) and a != b for a, b in zip(shape[1:], fixed[1:], strict=True)
    ):
        raise InputError(
            f"the generator to compare with returns {shape}, the artifact {fixed}: give the run or the module that it "
            "was exported from"
        )


def competitors(
    network: nn.Module, inputs: Inputs, device: str, threads: int, ways: Sequence[str]
) -> tuple[list[Competitor], dict[str, str]]:
    """Make a competitor for each way of running a network in PyTorch.

    Args:
        network: A network in evaluation mode.
        inputs: One batch, to try each way with.
        device: "cpu" or "cuda".
        threads: Threads of PyTorch.
        ways: Some of `TORCH`.

    Returns:
        Those that work, eager FP32 first, and the reasons why the others do not.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError("device 'cuda': PyTorch sees no CUDA device here; use --device cpu")
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # No TF32 in FP32.
    network = network.to(device)
    able, absent = [], {}
    for way in TORCH:
        if way not in ways:
            absent[TORCH[way]] = f"{NOT_ASKED} (--torch {way})"
            continue
        reason = _lacking(way, device)
        try:
            if not reason:
                made = MAKERS[way](network, inputs, device)
                made.run(inputs)
                able.append(made)
        except Exception as error:
            reason = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {one_line(error)}"
            if way == "eager":
                raise GanEdgeError(f"eager PyTorch fails on this generator: {reason}") from error
        if reason:
            absent[TORCH[way]] = reason
    return able, absent


def again(
    reference: ReferenceSpec, manifest: Manifest, interface: Interface, batch: int, threads: int, name: str
) -> Competitor:
    """Make one of the `competitors` on the CPU, in another process.

    Args:
        reference: As `open_reference` takes it.
        manifest: As `open_reference` takes it.
        interface: Inputs, of a fixed size.
        batch: Items to try it with.
        threads: Threads of PyTorch.
        name: Name of the competitor, a value of `TORCH`.

    Raises:
        EngineError: it does not work in that process.
    """
    (way,) = (way for way, shown in TORCH.items() if shown == name)
    inputs = real_inputs(interface, batch, seed=1)
    able, absent = competitors(open_reference(reference, manifest), inputs, "cpu", threads, (way,))
    if not able:
        raise EngineError(absent[name])
    return able[0]


def _lacking(way: str, device: str) -> str:
    """Return why this machine cannot run PyTorch one way; empty if it can."""
    if way == "cuda-graph" and device != "cuda":
        return "CUDA graphs need --device cuda"
    if way == "reduce-overhead" and device != "cuda":
        return "reduce-overhead needs --device cuda"
    if way == "fp16" and device != "cuda":
        return "FP16 autocast needs --device cuda"
    if way == "bf16" and device == "cuda" and not torch.cuda.is_bf16_supported():
        return "this GPU does not compute in bf16"
    return ""


class _Live(nn.Module):
    """A network that can be moved to other memory addresses."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def move(self) -> None:
        """Replace the network by a copy.

        Raises:
            EngineError: it cannot be copied, or there is no memory for two.
        """
        try:
            self.network = copy.deepcopy(self.network)
        except (RuntimeError, TypeError) as error:
            raise EngineError(f"PyTorch could not copy this generator: {one_line(error)}") from error

    def can_move(self) -> bool:
        """Whether this network can be copied; a module that holds a lock or an open file cannot."""
        try:
            self.move()
        except EngineError:
            return False
        return True

    def forward(self, *tensors: Tensor) -> Tensor:
        """Call the network."""
        output: Tensor = self.network(*tensors)
        return output


def _eager(network: nn.Module, _inputs: Inputs, device: str) -> Competitor:
    live = _Live(network)
    return _torch("eager", live, "fp32", device, network, live)


def _channels_last(network: nn.Module, _inputs: Inputs, device: str) -> Competitor:
    live = _Live(copy.deepcopy(network).to(memory_format=torch.channels_last))

    def call(*tensors: Tensor) -> Tensor:
        layout = torch.channels_last
        output: Tensor = live(*(t.contiguous(memory_format=layout) if t.ndim == 4 else t for t in tensors))
        return output

    return _torch("channels-last", call, "fp32", device, network, live)


def _autocast(way: str, dtype: torch.dtype) -> Maker:
    def make(network: nn.Module, _inputs: Inputs, device: str) -> Competitor:
        live = _Live(network)

        def call(*tensors: Tensor) -> Tensor:
            with torch.autocast(device, dtype):
                output: Tensor = live(*tensors)
            return output.float() if output.is_floating_point() else output

        return _torch(way, call, way, device, network, live)

    return make


def _compiled(way: str, mode: str | None) -> Maker:
    def make(network: nn.Module, _inputs: Inputs, device: str) -> Competitor:
        torch._dynamo.reset()
        # Without this it would silently run eager PyTorch beyond its limit of shapes.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        torch._dynamo.config.recompile_limit = SHAPES
        return _torch(way, torch.compile(network, mode=mode, dynamic=False), "fp32", device, network)

    return make


def _cuda_graph(network: nn.Module, _inputs: Inputs, device: str) -> Competitor:
    """Capture one call for each batch size; later calls copy their inputs into the captured ones and replay."""
    captured: dict[tuple[torch.Size, ...], Callable[..., Tensor]] = {}

    def call(*tensors: Tensor) -> Tensor:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes not in captured:
            captured[shapes] = _capture(network, tensors)
        return captured[shapes](*tensors)

    return _torch("cuda-graph", call, "fp32", device, network)


def _capture(network: nn.Module, inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
    """Capture a CUDA graph of one call with inputs of these shapes."""
    with torch.inference_mode():
        static = [tensor.clone() for tensor in inputs]
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                network(*static)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output: Tensor = network(*static)

    def replay(*tensors: Tensor) -> Tensor:
        for own, tensor in zip(static, tensors, strict=True):
            own.copy_(tensor)
        graph.replay()
        return output

    return replay


MAKERS: Mapping[str, Maker] = {
    "eager": _eager,
    "channels-last": _channels_last,
    "bf16": _autocast("bf16", torch.bfloat16),
    "fp16": _autocast("fp16", torch.float16),
    "compile": _compiled("compile", None),
    "reduce-overhead": _compiled("reduce-overhead", "reduce-overhead"),
    "cuda-graph": _cuda_graph,
}


def _torch(
    way: str,
    call: Callable[..., Tensor],
    precision: str,
    device: str,
    network: nn.Module,
    live: _Live | None = None,
) -> Competitor:
    """Make a competitor from a function of tensors on the device: it copies in, computes, copies out and waits."""

    def run(arrays: Inputs) -> NDArray[np.generic]:
        try:
            with torch.inference_mode():
                output: NDArray[np.generic] = call(*(torch.from_numpy(a).to(device) for a in arrays)).cpu().numpy()
                return output
        except Exception as error:  # A user's module may raise anything; most often memory runs out.
            raise EngineError(f"{TORCH[way]} could not run this generator: {one_line(error)}") from error

    size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))

    def split(pool: Sequence[Inputs]) -> Split:
        try:
            return _split(call, pool)
        except Exception as error:
            raise EngineError(f"{TORCH[way]} could not be timed in parts: {one_line(error)}") from error

    return Competitor(
        TORCH[way],
        f"PyTorch {torch.__version__}",
        precision,
        run,
        device=device,
        bytes=size,
        split=split if device == "cuda" else None,
        renew=live.move if live is not None and device == "cpu" and live.can_move() else None,
    )


def _split(call: Callable[..., Tensor], pool: Sequence[Inputs]) -> Split:
    """Return the medians of copying in, computing and copying out, seconds, from CUDA events."""
    parts = []
    with torch.inference_mode():
        for turn in range(WARM_SPLITS + SPLITS):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(4)]  # type: ignore[no-untyped-call]
            events[0].record()
            tensors = [torch.from_numpy(array).to("cuda") for array in pool[turn % len(pool)]]
            events[1].record()
            output = call(*tensors)
            events[2].record()
            output.cpu()
            events[3].record()
            torch.cuda.synchronize()
            parts.append([a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(events)])
    to_device, compute, to_host = np.median(parts[WARM_SPLITS:], axis=0)
    return Split(float(to_device), float(compute), float(to_host))
