"""Measures the generators of a training now and then: FID, KID, precision and recall of what they draw.

    examiner = Examiner(gan, items, "small", 5000, device)
    examiner({"generator": network})        # {"fid": 31.2, "kid": 0.004, "precision": 0.61, "recall": 0.48}

It draws the same latents, and translates the same pictures, each time, and leaves the training's random state alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ganedge.models import Variant
from ganedge.models.variant import Translator
from ganedge.runtime.conditions import Conditions, FurtherStream, InputStream
from ganedge.runtime.errors import UsageError
from ganedge.runtime.manifest import Interface
from ganedge.runtime.pictures import images
from ganedge.train.data import Data
from ganedge.train.metrics import Judge, Name
from ganedge.train.preview import evaluating

CHUNK = 100
"""Pictures drawn at once."""
SEED = 1
"""Of the latents: others than those of the previews."""


class Examiner:
    """Compares what generators draw with pictures of the data set.

    Args:
        gan: The variant.
        items: Its data.
        features: The feature network, by name.
        count: Pictures to compare; as many as there are where there are fewer.
        device: Where to compute.
        download: Whether the feature network's weights may be fetched.

    Raises:
        UsageError: data that are no pictures, too few of them, or a feature network that cannot be had.
        MissingExtra: torchmetrics, or what the feature network needs, is not installed.
    """

    def __init__(
        self, gan: Variant, items: Data, features: Name, count: int, device: torch.device, download: bool = False
    ) -> None:
        if items.wants.kind in ("points", "latents"):
            what = "this variant makes points" if items.wants.kind == "points" else "there are no real ones"
            raise UsageError(f"features is {features}: it compares pictures, and {what}")
        self._gan = gan
        self._items = items
        self._device = device
        self._interfaces = gan.generators()
        self.judges: dict[str, Judge] = {}
        for name, key in self._targets().items():
            held = items.count(key)
            indices = torch.linspace(0, held - 1, min(count, held)).long()
            pictures = torch.cat([items.pictures(key, chunk) for chunk in torch.split(indices, CHUNK)])
            self.judges[name] = Judge(features, pictures, device, download)

    def __call__(self, networks: Mapping[str, nn.Module]) -> dict[str, float]:
        """Measure each generator.

        Args:
            networks: The generators by name.

        Returns:
            The figures by name; of several generators, `fid_a2b` and so on. `fid` is then their mean.
        """
        measured: dict[str, float] = {}
        for name, judge in self.judges.items():
            suffix = name.removeprefix("generator").replace("-", "_")
            if isinstance(self._gan, Translator):
                drawn = self._translate(self._gan, name, networks, judge.count)
            else:
                drawn = self.draw(name, networks, judge.count)
            figures = judge(drawn)
            measured |= {f"{key}{suffix}": value for key, value in figures.items()}
        if "fid" not in measured:
            fids = [value for key, value in measured.items() if key.startswith("fid_")]
            measured["fid"] = sum(fids) / len(fids)
        return measured

    def _targets(self) -> dict[str, str]:
        if isinstance(self._gan, Translator):
            return dict(self._gan.targets)
        return dict.fromkeys(self._interfaces, "images")

    @torch.no_grad()
    def draw(self, name: str, networks: Mapping[str, nn.Module], count: int) -> Tensor:
        """Pictures from latents, uint8 `[count, C, H, W]`, each class in turn."""
        interface = self._interfaces[name]
        stream = InputStream(interface, Conditions(), SEED, None)
        drawn: list[Tensor] = []
        with evaluating(networks[name]):
            for begin in range(0, count, CHUNK):
                arrays = stream.take(min(CHUNK, count - begin))
                inputs = [torch.from_numpy(array).to(self._device) for array in arrays]
                drawn.append(_to_bytes(networks[name](*inputs), interface))
        return torch.cat(drawn)

    @torch.no_grad()
    def _translate(self, gan: Translator, name: str, networks: Mapping[str, nn.Module], count: int) -> Tensor:
        """Pictures from pictures evenly spread over the data, uint8 `[count, C, H, W]` or fewer where there are fewer.

        Each gets the next class, and new values of what is drawn, where the generator takes these.
        """
        interface = self._interfaces[name]
        further = FurtherStream(interface, Conditions(), SEED)
        drawn: list[Tensor] = []
        least = min(map(len, self._items.sources))
        indices = torch.linspace(0, least - 1, min(count, least)).long()
        with evaluating(networks[name]):
            for chunk in torch.split(indices, CHUNK // 10):
                picture = self._items.preview(chunk)[gan.sources[name]].to(self._device)
                others = [torch.from_numpy(array).to(self._device) for array in further.take(len(chunk))]
                drawn.append(_to_bytes(networks[name](picture, *others), interface))
        return torch.cat(drawn)


def _to_bytes(output: Tensor, interface: Interface) -> Tensor:
    """Pictures in the declared range to uint8 `[N, C, H, W]`, as the runtime rounds them."""
    port = interface.output
    assert port.range is not None
    return torch.from_numpy(images.to_pixels(output.float().cpu().numpy(), port.range, "NCHW")).permute(0, 3, 1, 2)
