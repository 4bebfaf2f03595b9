"""Training through torch.compile: fewer and larger kernels, where launching them is what a step waits for.

    compile_networks(networks)      # before the first step; names of weights, and what is exported, stay as they are

A compiled network has one backward pass, which computes the gradients of all its weights. So a generator's step pays
for the discriminator's too, which the uncompiled one leaves out, and fused layers have to win that back.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator

from torch import nn

from ganedge.runtime.errors import EngineError, one_line

BACKEND = "inductor"
"""Of torch.compile."""


def compile_networks(networks: Iterable[nn.Module]) -> None:
    """Compile each network that learns, in place; the work itself is done in its first steps."""
    from torch._functorch import config  # Imported here, because it takes a second that other trainings do not need.

    config.donated_buffer = False  # Both updates share one pass of the fakes: keep its graph.
    for network in networks:
        if any(True for _ in network.parameters()):  # Skip modules without parameters (replay buffers).
            network.compile(backend=BACKEND, dynamic=False)


@contextlib.contextmanager
def at_work() -> Iterator[None]:
    """Context for the steps of compiled networks: errors of the compiler become one-line errors.

    Raises:
        EngineError: no compiler, or one that fails.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        with warnings.catch_warnings():
            # Its tracer looks at the gradient of each input, also of those that are another network's output.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
            yield
    except TorchDynamoException as error:
        reason = one_line(error)
        raise EngineError(
            f"torch.compile cannot compile this here ({reason}): train without --compile; a run that was begun with it "
            "goes on only where it can be compiled"
        ) from error
