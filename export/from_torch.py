"""From a PyTorch module to an `SourceModel`: a run of ours, or any network with its interface.

original = of_run(Path("runs/horses"), which="a2b")
original = of_network(network, interface, source, norm="eval", folder=Path())
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from ganedge.export import phases
from ganedge.export.from_onnx import has_global_ops
from ganedge.export.outputs import Shapes, with_sizes
from ganedge.export.receptive_field import find_reach
from ganedge.export.sizes import find_multiple, larger, scaled, sized
from ganedge.export.source_model import Arrays, RunAll, SourceModel, result_of
from ganedge.export.to_onnx import example_inputs, norm_mode, small_size, to_onnx
from ganedge.runtime.errors import GanEdgeError, UsageError, one_line
from ganedge.runtime.inputs import real_inputs
from ganedge.runtime.manifest import Interface, NormMode, Source
from ganedge.train import run_folder

NormChoice = Literal["eval", "batch"]
"""Statistics that normalisation may use: those kept from training, or each picture's own."""


def of_run(
    folder: Path, which: str | None = None, norm: NormChoice = "eval", size: str | None = None, at: str = "last"
) -> SourceModel:
    """The generator of a run, with the weights to export.

    Args:
        folder: A folder that gan-train wrote.
        which: One of several generators: its name, or the part behind `generator-`; None takes the first.
        norm: Statistics of its normalisation.
        size: See `sized`.
        at: `last`, `best`, or the step of a checkpoint.

    Raises:
        ArtifactError: no run, or weights that do not fit.
        UsageError: it has no such generator or checkpoint.
    """
    opened = run_folder.read(folder)
    interfaces = opened.variant(opened.config).generators()
    name = which_generator(tuple(interfaces), which)
    network, source = opened.generator(name, at)
    return of_network(network, sized(interfaces[name], size), source, norm, folder, name)


def which_generator(names: tuple[str, ...], which: str | None) -> str:
    """The name of one of a run's generators, by it or by the part behind `generator-`. Raises UsageError."""
    if which is None:
        return names[0]
    for name in names:
        if which in (name, name.removeprefix("generator-")):
            return name
    choices = ", ".join(name.removeprefix("generator-") for name in names)
    raise UsageError(f"--which {which}: this run has {choices}")


def of_network(
    network: nn.Module,
    interface: Interface,
    source: Source,
    norm: NormChoice = "eval",
    folder: Path = Path(),
    stem: str = "generator",
) -> SourceModel:
    """Any network, as what every artifact of it is made from and compared with.

    Args:
        network: On the CPU, FP32; it is changed: evaluation mode, weights unwrapped.
        interface: What it takes and gives. The output's height and width, where an input's are dynamic, and the size
            multiple are found by trying.
        source: Where it comes from.
        norm: `eval` uses the statistics kept from training; `batch` each picture's own, for nets that were trained and
            judged with batches of one.
        folder: Where its artifacts go.
        stem: What their names begin with.

    Raises:
        GanEdgeError: it cannot run on such inputs, gives another result at each call, or cannot be exported.
    """
    network = unwrap(network).eval()
    mode: NormMode = norm_mode(network)
    if norm == "batch":
        network, mode = per_picture(network), "batch"
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    phases.report("finding the sizes that it takes")
    interface = find_sizes(network, interface)
    every = eager(network)
    _check_repeatable(every, interface)
    idle = _without_effect(every, interface)
    phases.report("exporting the graph")
    model, interface, notes = _exported(network, interface)
    if mode in ("none", "eval") and interface.inputs[0].role == "image" and has_global_ops(model):
        mode = "instance"  # GroupNorm, or a normalisation written by hand.
    notes = (*idle, *notes)
    interface = replace(interface, reach=find_reach(model, interface))
    outputs = every if interface.extras else None
    exact = in_double(network)
    return SourceModel(
        model, interface, mode, source, result_of(every), folder, stem, notes=notes, exact=exact, outputs=outputs
    )


def _without_effect(run: RunAll, interface: Interface) -> tuple[str, ...]:
    """Refuse further inputs that change nothing, which no user means; a note for noise, whose strength may be 0.

    Raises:
        GanEdgeError: a class, mask, vector or picture that has no effect.
    """
    if len(interface.inputs) == 1:
        return ()
    base, others = (real_inputs(interface, 2, seed) for seed in (0, 1))
    result, notes = run(base), []
    for index, port in enumerate(interface.inputs):
        if index == 0 or (port.role == "label" and len(interface.classes) == 1):
            continue
        other = base[index][::-1] if port.role == "label" else others[index]
        changed = run([*base[:index], np.ascontiguousarray(other), *base[index + 1 :]])
        if not all(map(np.array_equal, changed, result)):
            continue
        if port.role != "noise":
            raise GanEdgeError(
                f"the input {port.name} ({port.role}) has no effect on the result: check the weights, or leave it out"
            )
        notes.append(f"the noise {port.name} has no effect: its strength is 0 in these weights")
    return tuple(notes)


def _exported(network: nn.Module, interface: Interface) -> tuple[ModelProto, Interface, tuple[str, ...]]:
    """Export with a dynamic batch, or where the network does not allow that with a batch of one.

    StyleGAN2 convolves a batch in one call with as many groups as items, and window attention computes the batch from
    the number of windows: the exporter takes such numbers for constants.
    """
    try:
        return to_onnx(network, interface), interface, ()
    except GanEdgeError as error:
        if isinstance(interface.inputs[0].shape[0], int):
            raise
        ports = tuple(replace(port, shape=(1, *port.shape[1:])) for port in (*interface.inputs, *interface.outputs))
        count = len(interface.inputs)
        single = replace(interface, inputs=ports[:count], outputs=ports[count:])
        try:
            model = to_onnx(network, single)
        except GanEdgeError:
            raise error from None
    return model, single, ("it computes with its batch: exported for one input at a time",)


def eager(network: nn.Module) -> RunAll:
    """A function from arrays to the output arrays; one item at a time where pictures go in, to spare memory."""

    def run(inputs: Arrays) -> list[NDArray[np.generic]]:
        step = 1 if inputs[0].ndim == 4 and inputs[0].shape[-1] > 1 else 64
        with torch.inference_mode():
            parts = [
                _arrays(
                    network(*(torch.from_numpy(array[i : i + step].copy()) for array in inputs))
                )  # The network may write into its inputs.
                for i in range(0, len(inputs[0]), step)
            ]
        outputs: list[NDArray[np.generic]] = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        if not all(np.isfinite(output).all() for output in outputs):
            raise GanEdgeError(
                "this generator returns NaN or infinite values on real inputs: "
                "the weights may be corrupt, or training diverged"
            )
        return outputs

    return run


def _arrays(result: torch.Tensor | tuple[torch.Tensor, ...]) -> list[NDArray[np.generic]]:
    """The one or several tensors of a network as arrays."""
    return [tensor.numpy() for tensor in ((result,) if isinstance(result, torch.Tensor) else result)]


def in_double(network: nn.Module) -> RunAll:
    """A function as `eager` makes it, that computes in FP64.

    It raises whatever a network raises that makes FP32 tensors of its own.
    """

    def run(inputs: Arrays) -> list[NDArray[np.generic]]:
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            double = copy.deepcopy(network).double()
            tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
            wide = [tensor.double() if tensor.is_floating_point() else tensor for tensor in tensors]
            with torch.inference_mode():
                parts = [_arrays(double(*(tensor[i : i + 1] for tensor in wide))) for i in range(len(wide[0]))]
        finally:
            torch.set_default_dtype(usual)
        return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]

    return run


def unwrap(network: nn.Module) -> nn.Module:
    """Without DataParallel, and with spectral and weight normalisation folded into the weights they stand for."""
    if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        network = network.module
    network = network.eval()
    for module in network.modules():
        if nn.utils.parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                nn.utils.parametrize.remove_parametrizations(module, name)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, (SpectralNorm, WeightNorm)):
                hook.remove(module)
                del module._forward_pre_hooks[key]
    _kept_statistics(network)
    return network


def _kept_statistics(network: nn.Module) -> None:
    """InstanceNorm that uses statistics kept from training is BatchNorm, and is exported well as that alone."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.InstanceNorm2d) and child.track_running_stats and child.running_mean is not None:
                norm = nn.BatchNorm2d(child.num_features, child.eps, affine=child.affine)
                norm.load_state_dict(child.state_dict())
                setattr(parent, name, norm.eval())


def per_picture(network: nn.Module) -> nn.Module:
    """Every BatchNorm normalises each picture by itself, as it does in training with a batch of one.

    Raises:
        UsageError: there is none, or one that works on vectors, which have no statistics of their own.
    """
    changed = 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _instance_norm(child))
                changed += 1
            elif isinstance(child, nn.BatchNorm1d):
                raise UsageError(
                    "--norm-mode batch: one vector has no statistics of its own, so BatchNorm1d needs eval"
                )
            elif isinstance(child, nn.InstanceNorm2d) and child.track_running_stats:
                child.track_running_stats = False
                child.running_mean = child.running_var = None
                changed += 1
    if not changed:
        raise UsageError("--norm-mode batch: this generator has no BatchNorm; leave it out")
    return network


def _instance_norm(norm: nn.BatchNorm2d) -> nn.InstanceNorm2d:
    instance = nn.InstanceNorm2d(norm.num_features, norm.eps, affine=norm.affine)
    if norm.affine:
        instance.weight.data, instance.bias.data = norm.weight.data, norm.bias.data
    return instance.eval()


def find_sizes(network: nn.Module, interface: Interface) -> Interface:
    """Find by trial runs the output's shape, and the multiple that dynamic heights and widths must have.

    Raises:
        GanEdgeError: the network does not run on the inputs that the interface says, or gives something else.
    """
    port = interface.inputs[0]
    if any(isinstance(size, str) for size in port.shape[1:]):
        interface = with_sizes(interface, lambda least: _find_multiple(network, interface, least))
    shapes = _shapes(network, example_inputs(interface, 2, small_size(interface)))
    if len(shapes) != len(interface.outputs):
        raise GanEdgeError(f"this generator gives {len(shapes)} tensors, not {len(interface.outputs)}")
    given, out = shapes[0], interface.output
    if len(given) != len(out.shape) or any(
        isinstance(size, int) and size != actual for size, actual in zip(out.shape[1:], given[1:], strict=True)
    ):
        shown = " × ".join(map(str, given[1:]))
        raise GanEdgeError(
            f"this generator gives {shown} for each input, not {' × '.join(map(str, out.shape[1:]))}: "
            "say what goes in with --input, and what comes out with --output"
        )
    return interface


def _find_multiple(network: nn.Module, interface: Interface, least: int) -> tuple[Interface, Shapes]:
    """Find the smallest multiple at which the result's size follows the input's, and how it does.

    Returns:
        The interface with both, and the shapes of all outputs at the heights and widths of that multiple.
    """
    port, shapes = interface.inputs[0], Shapes()

    def tried(height: int, width: int) -> list[tuple[int, int]]:
        shapes[height, width] = _shapes(network, example_inputs(interface, 1, (height, width)))
        given = shapes[height, width][0]
        return list(zip((height, width), given[2:] if len(given) == 4 else (0, 0), strict=True))

    multiple, scale, border = find_multiple(tried, least)
    if interface.extras:  # A size that stays the same over a few pixels may still follow the picture's.
        tried(*larger(multiple))
    aligned = [replace(p, multiple=multiple) if interface.is_aligned(p) else p for p in interface.inputs[1:]]
    ports = (replace(port, multiple=multiple), *aligned)
    sides = {name: scaled(name, scale, border) for name in ("height", "width")}
    shape = tuple(sides.get(str(size), size) for size in interface.output.shape)
    outputs = (replace(interface.output, shape=shape), *interface.extras)
    fitting = {size: each for size, each in shapes.items() if not any(side % multiple for side in size)}
    return replace(interface, inputs=ports, outputs=outputs), fitting


def try_run(network: nn.Module, example: tuple[torch.Tensor, ...]) -> tuple[int, ...]:
    """Return the shape of the result, or one line with the reason why the network does not run."""
    return _shapes(network, example)[0]


def _shapes(network: nn.Module, example: tuple[torch.Tensor, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of the result and of what is kept beside it. Raises as `try_run` does."""
    try:
        with torch.inference_mode():
            output = network(*example)
    except Exception as error:
        shapes = ", ".join("×".join(map(str, tensor.shape[1:])) for tensor in example)
        reason = one_line(error)
        raise GanEdgeError(
            f"this generator does not take {shapes} ({type(error).__name__}: {reason}); say what it takes with --input"
        ) from error
    outputs = output if isinstance(output, tuple) and output else (output,)
    if not all(isinstance(tensor, torch.Tensor) for tensor in outputs):
        raise GanEdgeError(f"this generator gives {type(output).__name__}, not one tensor")
    return [tuple(tensor.shape) for tensor in outputs]


def _check_repeatable(run: RunAll, interface: Interface) -> None:
    example = [tensor.numpy() for tensor in example_inputs(interface, 1, small_size(interface))]
    with _seeded(0):
        first = run(example)
    with _seeded(1):
        second = run(example)
    if not all(map(np.array_equal, first, second)):
        raise GanEdgeError(_random_call(run, example))


def _random_call(run: RunAll, example: Arrays) -> str:
    """Say what is random in a generator: dropout that evaluation mode does not end, or numbers of its own."""
    calls: list[str] = []

    class Record(TorchFunctionMode):
        def __torch_function__(
            self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            calls.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Record():
        run(example)
    dropout = next((name for name in calls if "dropout" in name), None)
    if dropout is not None:
        return (
            f"this generator calls {dropout} in evaluation mode too, so that no two results can be compared: pass "
            f"training=self.training to F.{dropout}, or use the module nn.Dropout"
        )
    return (
        "this generator draws random numbers of its own at each call, so that no two results can be compared: "
        "make the noise an input, or a constant"
    )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
