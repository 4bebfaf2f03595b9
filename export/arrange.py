"""Find what a network's forward takes beside its first input, and call it with the inputs in the artifact's order.

    network, spec, notes = arrange(network, SourceSpec(input="3xHxW", kind="image"), torch.zeros(2, 3, 64, 64))

Inputs that the user names are matched with forward's parameters; required parameters that nobody names are tried with
what their names and the network's layers suggest, and the notes say what was found.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

from ganedge.export.further import EXAMPLE, NAMES, FurtherInput, candidates, role_by_name
from ganedge.export.sizes import main_result
from ganedge.export.source import SourceSpec
from ganedge.runtime.errors import UsageError, one_line
from ganedge.runtime.manifest import Role

EACH, TRIES = 24, 300
"""Candidates for one parameter, and combinations tried for all of them."""
LABEL = "label"
"""What the input of class numbers is called."""


def arrange(network: nn.Module, spec: SourceSpec, first: Tensor) -> tuple[nn.Module, SourceSpec, tuple[str, ...]]:
    """Complete a specification by the inputs beside the first.

    Args:
        network: In evaluation mode.
        spec: With the further inputs and classes that the user stated.
        first: An example of the first input, a batch of two.

    Returns:
        A network that takes the first input and then those of the specification's `further`, in that order; the
        specification, where a label is one of them; and notes for the user.

    Raises:
        UsageError: a required parameter that nothing fits, or an input that forward does not take.
    """
    required, optional, is_open = _parameters(network)
    stated = list(spec.further)
    if spec.classes and not any(item.role == "label" for item in stated):
        stated.append(FurtherInput(LABEL, (), "label"))
    if len(required) <= 1 and not stated:
        return network, spec, ()
    if is_open or not required:
        return _one_hot(network, replace(spec, further=tuple(stated)), first)

    main, chosen = _match(spec, stated, required, optional)
    missing = [name for name in required if name != main and name not in chosen]
    notes: tuple[str, ...] = ()
    for name in [name for name in missing if name.lower() in NAMES["label"] and not spec.classes]:
        classes = _embedded(network, first, main, chosen, name) if len(missing) == 1 else 0
        if classes:
            spec = replace(spec, classes=tuple(map(str, range(classes))))
            chosen[name], missing = FurtherInput(name, (), "label"), []
            notes = (f"{name} is taken for one of {classes} classes, by its embedding; --classes names them",)
    if missing:
        guessed = _guess(network, spec, first, main, chosen, missing)
        absent = [name for name in guessed if _is_unused(network, spec, first, main, {**chosen, **guessed}, name)]
        chosen.update({name: item for name, item in guessed.items() if name not in absent})
        required = [name for name in required if name not in absent]
        network = Named(network, (), absent) if absent else network
        notes = tuple(
            f"forward's {name} has no effect: None is passed"
            if name in absent
            else f"{item} is taken for forward's {name}; --input states another"
            for name, item in guessed.items()
        )

    # Put them in forward's order, and pass them by name where that is not simply one after the other.
    order = [name for name in (*required, *optional) if name in chosen]
    spec = _with_classes(replace(spec, further=tuple(chosen[name] for name in order)))
    if isinstance(network, Named):
        network = Named(network.network, (main, *order), network.absent)
    elif [main, *order] != [*required, *optional][: len(order) + 1]:
        network = Named(network, (main, *order))
    network, spec, label_notes = _one_hot(network, spec, first)
    return network, spec, (*notes, *label_notes)


def _match(
    spec: SourceSpec, stated: Sequence[FurtherInput], required: Sequence[str], optional: Sequence[str]
) -> tuple[str, dict[str, FurtherInput]]:
    """Match stated inputs with parameters: by name, else by the role that a name suggests, else by order.

    Returns:
        The parameter that takes the first input, and the inputs of the others by parameter.
    """
    chosen = {item.name: item for item in stated if item.name in (*required, *optional)}
    unnamed = [item for item in stated if item.name not in chosen]
    main = min(
        (name for name in required if name not in chosen), key=lambda n: _may_be_further(n, spec), default=required[0]
    )
    unmatched = [name for name in required if name != main and name not in chosen]
    for name in unmatched:
        item = _take(unnamed, role_by_name(name))
        if item is not None:
            chosen[name] = item
    by_role = sorted((name for name in unmatched if name not in chosen), key=lambda n: role_by_name(n) is not None)
    for name in (*by_role, *(name for name in optional if name not in chosen)):
        if unnamed:
            chosen[name] = unnamed.pop(0)
    if unnamed:
        known = ", ".join((*required, *optional))
        raise UsageError(f"--input {unnamed[0]}: forward takes {known}, and nothing is left for it")
    return main, chosen


def examples(further: Sequence[FurtherInput], first: Tensor, classes: int = 0) -> list[Tensor]:
    """A batch of two of each further input, of random values."""
    made = []
    for item in further:
        if item.role == "label":
            indices = torch.arange(2) % max(classes, 1)
            made.append(torch.eye(int(item.shape[0]))[indices] if item.shape else indices)
            continue
        sides = {"height": first.shape[-2], "width": first.shape[-1]} if first.ndim == 4 else {}
        made.append(torch.rand(2, *(size if isinstance(size, int) else sides.get(size, 64) for size in item.shape)))
    return made


class Named(nn.Module):
    """A network whose inputs are passed by the names of forward's parameters, and None for those in `absent`."""

    def __init__(self, network: nn.Module, names: Sequence[str], absent: Sequence[str] = ()) -> None:
        super().__init__()
        self.network, self.names, self.absent = network, tuple(names), tuple(absent)

    def forward(self, *inputs: Tensor) -> Any:
        """Pass each by its name."""
        return self.network(**dict(zip(self.names, inputs, strict=True)), **dict.fromkeys(self.absent))


class WithConstants(nn.Module):
    """A network some of whose forward's parameters are constant; the others are passed one after the other, or by name.

    >>> WithConstants(nn.Upsample(scale_factor=2), {}).names
    ('input',)
    """

    def __init__(self, network: nn.Module, constants: Mapping[str, Any]) -> None:
        super().__init__()
        self.network, self.constants = network, dict(constants)
        required, optional, _ = _parameters(network)
        self.names = tuple(name for name in (*required, *optional) if name not in constants)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        """Compute with the constants."""
        return self.network(**dict(zip(self.names, inputs, strict=False)), **named, **self.constants)


def with_constants(network: nn.Module, constants: Mapping[str, Any] | None) -> tuple[nn.Module, tuple[str, ...]]:
    """Keep arguments of a network's forward constant.

    Args:
        network: In evaluation mode.
        constants: By parameter; None where nobody stated any.

    Returns:
        The network, and a note on numbers among forward's defaults, such as a progressive GAN's step.

    Raises:
        UsageError: forward has no such parameter.
    """
    required, optional, is_open = _parameters(network)
    names = [*required, *optional]
    for name in constants or ():
        if name not in names and not is_open:
            raise UsageError(f"--forward-kwargs: forward takes {', '.join(names)}, and no {name}")
    if constants:
        return WithConstants(network, constants), ()
    if isinstance(network, torch.jit.ScriptModule) or is_open:
        return network, ()
    defaults = {name: inspect.signature(network.forward).parameters[name].default for name in optional}
    numbers = [f"{name}={value}" for name, value in defaults.items() if type(value) in (int, float)]
    shown = f"forward's {' and '.join(numbers)} stay what they are by default; --forward-kwargs states others"
    return network, (shown,) if numbers else ()


class OneHot(nn.Module):
    """A network that takes a vector with a one for each class, given class numbers as its input `index`."""

    def __init__(self, network: nn.Module, classes: int, index: int = 1) -> None:
        super().__init__()
        self.network, self.index = network, index
        self.register_buffer("vectors", torch.eye(classes), persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        """Look the vectors up, then compute."""
        changed = list(inputs)
        changed[self.index] = self.get_buffer("vectors")[changed[self.index]]
        return self.network(*changed)


def runs(network: nn.Module, *inputs: Tensor) -> bool:
    """Whether a network takes such inputs, and returns as many items."""
    return failure(network, *inputs) is None


def failure(network: nn.Module, *inputs: Tensor) -> str | None:
    """Why a network does not take such inputs; None where it does, and returns as many items."""
    try:
        with torch.no_grad():
            result = network(*inputs)
    except Exception as error:  # noqa: BLE001 - a foreign module may raise anything
        return f"{type(error).__name__}: {one_line(error)}"
    return None if returns_each(result, len(inputs[0])) else "it returns another number of items"


def returns_each(result: Any, items: int) -> bool:
    """Whether a result, or the most likely picture of several, has a value for each item of a batch."""
    result = _main(result)
    return result is not None and result.ndim > 0 and len(result) == items


def _main(result: Any) -> Tensor | None:
    """The tensor that is most likely the picture; None where there is none."""
    tensors = [tensor for _, tensor in tensors_in(result)]
    return tensors[main_result([tuple(tensor.shape) for tensor in tensors])] if tensors else None


def tensors_in(result: Any, path: tuple[int | str, ...] = ()) -> Iterator[tuple[tuple[int | str, ...], Tensor]]:
    """Yield all tensors in lists, tables, named tuples and dataclasses, with the keys that lead to each."""
    if isinstance(result, Tensor):
        yield path, result
        return
    if isinstance(result, Mapping):
        members: Iterable[tuple[int | str, Any]] = result.items()
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        members = zip(result._fields, result, strict=True)
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        members = ((item.name, getattr(result, item.name)) for item in dataclasses.fields(result))
    else:
        members = enumerate(result) if isinstance(result, (list, tuple)) else ()
    for key, value in members:
        yield from tensors_in(value, (*path, key))


def member(result: Any, path: Sequence[int | str]) -> Tensor:
    """The tensor to which the keys of `tensors_in` lead."""
    for key in path:
        by_name = isinstance(key, str) and not isinstance(result, Mapping)
        result = getattr(result, str(key)) if by_name else result[key]
    tensor: Tensor = result
    return tensor


def required_inputs(network: nn.Module) -> list[str]:
    """Return the names of forward's required parameters."""
    return _parameters(network)[0]


def _parameters(network: nn.Module) -> tuple[list[str], list[str], bool]:
    """Forward's required and optional parameters in order, and whether it takes any number."""
    required: list[str] = []
    optional: list[str] = []
    if isinstance(network, WithConstants):
        required, optional, is_open = _parameters(network.network)
        own = set(network.constants)
        return [name for name in required if name not in own], [name for name in optional if name not in own], is_open
    if isinstance(network, torch.jit.ScriptModule):
        arguments = network.forward.schema.arguments[1:]  # type: ignore[attr-defined]
        default = [argument.name for argument in arguments if argument.has_default_value()]
        return [argument.name for argument in arguments if argument.name not in default], default, False
    for parameter in inspect.signature(network.forward).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return [], [], True
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            continue
        (required if parameter.default is inspect.Parameter.empty else optional).append(parameter.name)
    return required, optional, False


def _may_be_further(name: str, spec: SourceSpec) -> bool:
    """Whether a parameter's name says that it is a mask, label, noise or style, and so not the first input."""
    roles = ("mask", "label") if spec.kind == "latent" else ("mask", "label", "noise")
    return role_by_name(name) in roles or name.lower().startswith("style")


def _take(items: list[FurtherInput], role: Role | None) -> FurtherInput | None:
    """Take the first stated input of a role; None where there is none."""
    index = next((index for index, item in enumerate(items) if item.role == role), None)
    return None if index is None else items.pop(index)


def _guess(
    network: nn.Module,
    spec: SourceSpec,
    first: Tensor,
    main: str,
    chosen: dict[str, FurtherInput],
    missing: Sequence[str],
) -> dict[str, FurtherInput]:
    """Try what the parameters that nobody stated may be.

    Raises:
        UsageError: nothing that was tried runs.
    """
    options = [list(islice(_candidates(network, spec, first, name), EACH)) for name in missing]
    reason = ""
    for combination in islice(product(*options), TRIES):
        every = {**chosen, **dict(zip(missing, combination, strict=True))}
        named = Named(network, (main, *every))
        refusal = failure(named, first, *examples(list(every.values()), first, len(spec.classes)))
        if refusal is None:
            return dict(zip(missing, combination, strict=True))
        reason = reason or refusal
    shown = " and ".join(missing)
    raise UsageError(
        f"forward takes {shown} beside {main}: state what goes in, such as {EXAMPLE}, or the classes with --classes"
        + (f" (tried {' '.join(str(option[0]) for option in options)}: {reason})" if all(options) else "")
    )


def _is_unused(
    network: nn.Module, spec: SourceSpec, first: Tensor, main: str, every: dict[str, FurtherInput], name: str
) -> bool:
    """Whether a parameter changes nothing and may be None, as the class of a StyleGAN2 without classes."""
    others = {key: item for key, item in every.items() if key != name}
    named, without = Named(network, (main, *every)), Named(network, (main, *others), (name,))
    first = torch.rand(first.shape, generator=torch.Generator().manual_seed(0))
    values = [examples([item], first, len(spec.classes))[0] for item in every.values()]
    index = list(every).index(name)
    changed = [*values[:index], 1 - values[index], *values[index + 1 :]]
    results = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for network_, inputs in ((named, values), (named, changed), (without, [*values[:index], *values[index + 1 :]])):
            torch.manual_seed(0)
            if failure(network_, first, *inputs) is not None:
                return False
            torch.manual_seed(0)
            results.append([tensor for _, tensor in tensors_in(network_(first, *inputs))])
    return all(len(result) == len(results[0]) and all(map(torch.equal, results[0], result)) for result in results[1:])


def _embedded(network: nn.Module, first: Tensor, main: str, chosen: dict[str, FurtherInput], name: str) -> int:
    """The classes of a parameter whose numbers an embedding looks up; 0 where there is none that fits."""
    every = {**chosen, name: FurtherInput(name, (), "label")}
    for layer in network.modules():
        if isinstance(layer, nn.Embedding):
            named = Named(network, (main, *every))
            if runs(named, first, *examples(list(every.values()), first, layer.num_embeddings)):
                return layer.num_embeddings
    return 0


def _candidates(network: nn.Module, spec: SourceSpec, first: Tensor, name: str) -> Iterator[FurtherInput]:
    """What a parameter may be by its name and the network's layers, the likeliest first."""
    modules = list(network.modules())
    widths = [layer.in_features for layer in modules if isinstance(layer, nn.Linear)]
    convolutions = [layer for layer in modules if isinstance(layer, nn.modules.conv._ConvNd)]
    beyond = [layer.in_channels - first.shape[1] for layer in convolutions if layer.in_channels > first.shape[1]]
    beyond += [width - first.shape[1] for width in widths if first.ndim == 2 and width > first.shape[1]]
    shape: tuple[int | str, ...] = tuple(first.shape[1:])
    if spec.kind == "image":
        shape = (first.shape[1], "height", "width") if _is_dynamic(spec) else shape
    if name.lower() in NAMES["label"]:
        for width in dict.fromkeys((*beyond, *widths)):
            yield FurtherInput(name, (width,), "label")
    yield from candidates(name, str(spec.kind), shape, widths, beyond)
    if name.lower() in NAMES["label"]:
        yield FurtherInput(name, (1,), "label")  # Ignored by a network that was trained without classes.


def _is_dynamic(spec: SourceSpec) -> bool:
    """Whether the first input's height and width may be any."""
    if spec.size is not None:
        return spec.size == "dynamic" or "," in spec.size
    return spec.input is not None and not spec.input.replace("x", "").isdigit()


def _with_classes(spec: SourceSpec) -> SourceSpec:
    """Name the classes by numbers where a label was found by its width."""
    label = next((item for item in spec.further if item.role == "label"), None)
    if label is None or spec.classes or not label.shape:
        return spec
    return replace(spec, classes=tuple(map(str, range(int(label.shape[0])))))


def _one_hot(network: nn.Module, spec: SourceSpec, first: Tensor) -> tuple[nn.Module, SourceSpec, tuple[str, ...]]:
    """Let class numbers go into a network that takes a vector with a one."""
    labels = [index for index, item in enumerate(spec.further) if item.role == "label"]
    plain = tuple(FurtherInput(LABEL, (), "label") if item.role == "label" else item for item in spec.further)
    spec = replace(spec, further=plain)
    if not labels or not spec.classes or runs(network, first, *examples(plain, first, len(spec.classes))):
        return network, spec, ()
    vectors = OneHot(network, len(spec.classes), labels[0] + 1)
    if not runs(vectors, first, *examples(plain, first, len(spec.classes))):
        return network, spec, ()
    return vectors, spec, ("it takes a vector with a one for the class: made from the class number inside",)
