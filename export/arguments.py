"""Find constructor arguments at which a module has the shapes of given weights.

    fit = fitting_arguments(Generator, {}, state)       # fit.arguments == {"ngf": 64, "nz": 128}, or None

Modules are made on PyTorch's meta device, which computes shapes and allocates nothing.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganedge.export.checkpoints import without_wrappers
from ganedge.runtime.errors import UsageError

ATTEMPTS = 600
"""Modules to make at most."""
SECONDS = 60.0
"""Time for making them, seconds."""
NEUTRAL: dict[str, Any] = {"ngpu": 1, "gpu_ids": [], "device": "cpu", "gpu": None, "rank": 0}
"""Arguments that say where a module is computed, and values for a CPU."""
WITHOUT = re.compile(r"(^|_)(pretrained|download)$")
"""Names of switches that load pretrained weights, which would be replaced anyway."""
STORED = ("hyper_parameters", "hparams", "config", "kwargs", "init_kwargs", "args", "opt")
"""Names under which checkpoints keep the settings of a training."""
BLOCKS = 24
"""Numbers of repeated layers to try at most."""
SHAPE = re.compile(r"(^|_)shape$")
"""Names of arguments that are an image's channels, height and width: input_shape, img_shape."""
IMAGES = tuple((channels, side, side) for side in (256, 128, 64, 32, 28) for channels in (3, 1, 4))
"""Shapes to try for those."""
NORM = re.compile(r"(^|_)norm(_|$)")
"""Names of arguments that are a normalisation layer: norm, norm_layer, norm_type."""
LAYERS = (
    *("nn.InstanceNorm2d", "nn.BatchNorm2d", "nn.InstanceNorm2d(affine=True)"),
    *("nn.InstanceNorm2d(track_running_stats=True)", "nn.Identity"),
)
"""Classes to try for these arguments, as `--kwargs` takes them."""
LAYER_NAMES = ("instance", "batch", "none")
"""Texts to try for these arguments if the default is a text."""
CLASS = re.compile(r"(torch\.)?nn\.\w+(\(.*\))?")
"""Text of `--kwargs` that names a class of torch.nn."""
PLAIN = (bool, int, float, str, list, tuple, type(None))
"""Types of settings that can be arguments."""


@dataclass(frozen=True)
class Fit:
    """Arguments at which a module has the names and shapes of given weights."""

    arguments: dict[str, Any]
    undetermined: tuple[str, ...] = ()
    """Required arguments that change the module and not its names and shapes: only the user knows them."""


def all_arguments(factory: Callable[..., Any], kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a factory is called with, its defaults included; only the stated ones where it has no signature."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return dict(kwargs or {})
    return {p.name: p.default for p in parameters if p.default is not p.empty} | dict(kwargs or {})


class Settings(dict[str, Any]):
    """A table whose entries are attributes too: constructors take `h["layers"]` or `h.layers`.

    >>> Settings(layers=3).layers
    3
    """

    def __getattr__(self, name: str) -> Any:
        """Return an entry."""
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"the settings have no {name}") from error


def usable(value: Any) -> Any:
    """Return a value of `--kwargs` as a constructor takes it: tables with attributes, classes in place of their names.

    Raises:
        UsageError: PyTorch has no such class.

    >>> usable({"norm_layer": "nn.InstanceNorm2d"})["norm_layer"].__name__
    'InstanceNorm2d'
    >>> usable("nn.InstanceNorm2d(affine=True)")(8).affine
    True
    """
    if isinstance(value, Mapping):
        return Settings({str(key): usable(item) for key, item in value.items()})
    if isinstance(value, list):
        return [usable(item) for item in value]
    if not isinstance(value, str) or not CLASS.fullmatch(value):
        return value
    name, bracket, settings = value.removeprefix("torch.").removeprefix("nn.").partition("(")
    layer = getattr(nn, name, None)
    if not isinstance(layer, type):
        raise UsageError(f"--kwargs {value}: torch.nn has no class {name}")
    if not bracket:
        return layer
    try:
        call = ast.parse(f"f({settings}", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return functools.partial(layer, **{str(item.arg): ast.literal_eval(item.value) for item in call.keywords})
    except (AssertionError, SyntaxError, ValueError, TypeError) as error:
        raise UsageError(f"--kwargs {value}: give settings by name, such as nn.{name}(affine=True)") from error


def stored_arguments(content: Any) -> dict[str, Any]:
    """Return the settings that a checkpoint holds beside its weights, such as Lightning's hyper_parameters.

    >>> stored_arguments({"hyper_parameters": {"ngf": 32, "loss": object}, "state_dict": {}})
    {'ngf': 32}
    """
    if not isinstance(content, Mapping):
        return {}
    stored: dict[str, Any] = {}
    for key in STORED:
        settings = content.get(key)
        table = settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {})
        stored |= {str(name): value for name, value in table.items() if isinstance(value, PLAIN)}
    return stored


def fitting_arguments(
    factory: Callable[..., Any],
    kwargs: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    stored: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
) -> Fit | None:
    """Search whole numbers and switches, one argument after the other, for those at which all shapes agree.

    Args:
        factory: A class or function that makes a module.
        kwargs: Arguments that are given; whole numbers among them may change.
        weights: The weights, under the module's own names.
        stored: Settings that were saved with the weights; those with the name of an argument are tried first.
        seconds: Time for the search.

    Returns:
        The arguments, or None where no combination that was tried fits.

    >>> fitting_arguments(nn.Linear, {"in_features": 3, "out_features": 2}, nn.Linear(5, 4).state_dict()).arguments
    {'in_features': 5, 'out_features': 4}
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    accepted = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = {p.name: (stored or {})[p.name] for p in accepted if p.name in (stored or {})} | dict(kwargs)
    required = [p.name for p in accepted if p.default is p.empty and p.name not in known]
    neutral = {name: NEUTRAL[name] for name in required if name in NEUTRAL}
    neutral |= {p.name: False for p in accepted if p.default is True and WITHOUT.search(p.name) and p.name not in known}
    searched = [name for name in required if name not in neutral]
    values = {p.name: known.get(p.name, p.default) for p in accepted}
    optional = [
        name
        for name, value in values.items()
        if name not in {*neutral, *searched} and (type(value) in (int, bool) or NORM.search(name))
    ]
    candidates = _candidates(weights)
    best, score = _start(factory, {**known, **neutral}, searched, candidates, weights)
    began, attempts = time.monotonic(), 0
    for name in [*searched, *optional, *searched, *optional]:
        for value in _values(name, values[name], candidates):
            if score == 1.0 or attempts > ATTEMPTS or time.monotonic() - began > seconds:
                break
            attempts += 1
            changed = _agreement(factory, {**best, name: value}, weights)
            if changed > score:
                best, score = {**best, name: value}, changed
    if score != 1.0:
        return None
    free = [name for name in searched if _is_free(factory, best, name, weights)]
    ones = {name: 1 for name in free if not SHAPE.search(name)}
    return Fit({**best, **ones}, tuple(free))


def _values(name: str, default: Any, candidates: Sequence[int]) -> Sequence[Any]:
    """Return the values to try for an argument."""
    if type(default) is bool:
        return (True, False)
    if NORM.search(name) and type(default) is not int:
        return LAYER_NAMES if isinstance(default, str) else LAYERS
    return IMAGES if default is inspect.Parameter.empty and SHAPE.search(name) else candidates


def _is_free(factory: Callable[..., Any], fit: Mapping[str, Any], name: str, weights: Mapping[str, Tensor]) -> bool:
    """Does an argument change the module, but not the names and shapes of its weights?"""
    value = fit[name]
    if not isinstance(value, (int, tuple)):
        return False  # A layer by its class.
    others = [(value[0], 2 * value[1], 2 * value[2])] if isinstance(value, tuple) else [1, value + 1]
    if any(_agreement(factory, {**fit, name: other}, weights) != 1.0 for other in others):
        return False
    structures = [_structure(_made(factory, {**fit, name: other})) for other in (value, *others)]
    return any(structure != structures[0] for structure in structures)


def _structure(network: nn.Module) -> list[Any]:
    """Return what a module consists of, beside its weights: layers with their settings, and attributes."""
    hidden = ("_parameters", "_buffers", "_modules")
    return [
        (str(module), {key: repr(value) for key, value in vars(module).items() if key not in hidden})
        for module in network.modules()
    ]


def _start(
    factory: Callable[..., Any],
    known: dict[str, Any],
    searched: Sequence[str],
    candidates: Sequence[int],
    weights: Mapping[str, Tensor],
) -> tuple[dict[str, Any], float]:
    """Return the first values for required arguments at which a module can be made, and how well it agrees."""
    best, score = known, -1.0
    for value in (64, 4, 1, *candidates[:1]) if searched else (0,):
        first = {name: _values(name, inspect.Parameter.empty, [value])[0] for name in searched}
        best = {**known, **first}
        score = _agreement(factory, best, weights)
        if score >= 0:
            break
    return best, score


def _candidates(weights: Mapping[str, Tensor]) -> list[int]:
    """Return the lengths in the weights' shapes, the numbers of layers in their names, and small numbers of blocks."""
    sizes = {int(size) for value in weights.values() for size in value.shape}
    layers: dict[str, set[str]] = {}
    for key in weights:
        for match in re.finditer(r"\.?(\d+)\.", key):
            layers.setdefault(key[: match.start()], set()).add(match[1])
    counts = {len(indices) for indices in layers.values()}
    likely = sorted(sizes | counts - {0}, reverse=True)[:40]
    return [*likely, *(count for count in range(1, BLOCKS + 1) if count not in likely)]


def _made(factory: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    """Make a module without memory for its weights."""
    with torch.device("meta"):
        return factory(**usable(kwargs))


def _agreement(factory: Callable[..., Any], kwargs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> float:
    """Return the share of names and shapes that a module made with these arguments shares with the weights."""
    try:
        network = _made(factory, kwargs)
    except Exception:  # noqa: BLE001 - a foreign module may raise anything
        return -1.0
    if not isinstance(network, nn.Module):
        return -1.0
    own = {without_wrappers(key): value.shape for key, value in network.state_dict().items()}
    weights = {without_wrappers(key): value for key, value in weights.items()}
    equal = sum(own.get(key) == value.shape for key, value in weights.items())
    near = sum(
        sum(a == b for a, b in zip(own[key], value.shape, strict=False)) / max(value.ndim, 1)
        for key, value in weights.items()
        if key in own
    )
    total = len(own.keys() | weights.keys())
    return 1.0 if equal == total else (equal + 0.1 * near) / (2 * total)
