"""Find constructor arguments at which a module has the shapes of given weights.

    fitting_arguments(Generator, {}, state)             # {"ngf": 64, "nz": 128}, or None

Modules are made on PyTorch's meta device, which computes shapes and allocates nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ATTEMPTS = 300
"""Modules to make at most."""


def fitting_arguments(
    factory: Callable[..., Any], kwargs: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> dict[str, Any] | None:
    """Search whole-number arguments, one after the other, for those at which all shapes agree.

    Args:
        factory: A class or function that makes a module.
        kwargs: Arguments that are given; whole numbers among them may change.
        weights: The weights, under the module's own names.

    Returns:
        The arguments, or None where no combination that was tried fits. Arguments without influence on shapes
        (a number of heads) cannot be found this way, so the user has to confirm the result.

    >>> fitting_arguments(nn.Linear, {"in_features": 3, "out_features": 2}, nn.Linear(5, 4).state_dict())
    {'in_features': 5, 'out_features': 4}
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    usable = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    values = {p.name: kwargs.get(p.name, p.default) for p in usable}
    names = [name for name, value in values.items() if type(value) is int or value is inspect.Parameter.empty]
    candidates = _candidates(weights)
    if not names or not candidates:
        return None
    required = {name: candidates[0] for name in names if values[name] is inspect.Parameter.empty}
    best = {**kwargs, **required}
    score, attempts = _agreement(factory, best, weights), 0
    for name in [*required, *names, *names]:
        for value in candidates:
            if score == 1.0 or attempts > ATTEMPTS:
                break
            attempts += 1
            changed = _agreement(factory, {**best, name: value}, weights)
            if changed > score:
                best, score = {**best, name: value}, changed
    return best if score == 1.0 else None


def _candidates(weights: Mapping[str, Tensor]) -> list[int]:
    """Return the lengths in the weights' shapes, and the numbers of layers in their names."""
    sizes = {int(size) for value in weights.values() for size in value.shape}
    layers: dict[str, set[str]] = {}
    for key in weights:
        for match in re.finditer(r"\.?(\d+)\.", key):
            layers.setdefault(key[: match.start()], set()).add(match[1])
    counts = {len(indices) for indices in layers.values()}
    return sorted(sizes | counts - {0}, reverse=True)[:40]


def _agreement(factory: Callable[..., Any], kwargs: Mapping[str, Any], weights: Mapping[str, Tensor]) -> float:
    """Return the share of names and shapes that a module made with these arguments shares with the weights."""
    try:
        with torch.device("meta"):
            network = factory(**kwargs)
    except Exception:  # noqa: BLE001 - a foreign module may raise anything
        return -1.0
    if not isinstance(network, nn.Module):
        return -1.0
    own = {key: value.shape for key, value in network.state_dict().items()}
    equal = sum(own.get(key) == value.shape for key, value in weights.items())
    near = sum(
        sum(a == b for a, b in zip(own[key], value.shape, strict=False)) / max(value.ndim, 1)
        for key, value in weights.items()
        if key in own
    )
    total = len(own.keys() | weights.keys())
    return 1.0 if equal == total else (equal + 0.1 * near) / (2 * total)
