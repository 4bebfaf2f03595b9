"""The parts of a training under way, one by one: what is drawn, updated, averaged, saved and taken over."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ganedge.models import find
from ganedge.models.dcgan import DCGAN
from ganedge.models.variant import VariantConfig
from ganedge.runtime.errors import ArtifactError, UsageError
from ganedge.train import checkpoint, compiling, data, devices, instance_norm, run_folder, trainer
from ganedge.train.settings import MemoryFormat, Settings
from ganedge.train.trainer import Average, Trainer, _mix

PICTURES: dict[str, Any] = {"size": 16, "width": 4, "latent": 3, "batch": 4}
Make = Callable[..., Trainer]


class Fabric:
    """What `Trainer` needs of Fabric, which the real one does but for what is stated here."""

    def __init__(self, real: Any, **stated: Any) -> None:
        self._real = real
        self.__dict__.update(stated)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A trainer of the points of a circle, or of digits where the config has a size."""

    def build(config: dict[str, Any] | None = None, fabric: dict[str, Any] | None = None, **given: Any) -> Trainer:
        pictures = "size" in (config or {})
        variant = DCGAN if pictures else find("circles")
        spec = "digits" if pictures else "circles"
        settings = Settings(
            **{
                "data": spec,
                "out": tmp_path,
                "device": "cpu",
                "precision": "fp32",
                "fraction": 0.05 if pictures else 1.0,
                **given,
            }
        )
        full: VariantConfig = variant.config_class(**({"channels": 1} if pictures else {}), **(config or {}))
        items = data.open_data(spec, variant.wants(full), settings.opening)
        return Trainer(Fabric(devices.make_fabric(settings), **(fabric or {})), variant, full, settings, items)  # type: ignore[arg-type]

    return build


def test_as_many_steps_as_epochs_need(make: Make) -> None:
    assert make({"epochs": 2, "batch": 300}).total == 7, "of 1000 points"
    assert make({"epochs": 2, "batch": 250}).total == 8
    assert make({"epochs": 2, "batch": 250}, steps=3).total == 3
    assert make({"epochs": 2, "batch": 250, "decay": 0.5}, steps=8).total == 8
    assert make({"epochs": 2, "batch": 250}, steps=9).total == 9, "rates that do not fall never end"


def test_everything_random_comes_from_the_seed(make: Make) -> None:
    """The first weights, the order of the data and the partners of unpaired items, each from a stream of its own."""
    training = make({"batch": 300}, seed=11)
    torch.manual_seed(_mix(11, 2, 0))
    first = find("circles")(training.config)
    for name, network in training.gan.networks.items():
        torch.testing.assert_close(network.state_dict(), first.networks[name].state_dict(), rtol=0, atol=0)
    orders = [torch.randperm(1000, generator=torch.Generator().manual_seed(_mix(11, 1, epoch))) for epoch in range(2)]
    visited = torch.cat([training._chosen(step) for step in range(6)])
    assert torch.equal(visited, torch.cat(orders)[:1800])
    assert [training._partners(step) for step in (0, 7)] == [_mix(11, 4, 0), _mix(11, 4, 7)]


def test_the_next_batch_is_prepared_while_this_is_learned(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what will be asked for, and none beyond the last step."""
    training = make({"batch": 300}, steps=2, seed=3)
    prepared: list[Any] = []
    asked: list[Any] = []
    fetch = data.Data.batch
    monkeypatch.setattr(data.Data, "prepare", lambda _, *given: prepared.append((training.step, *given)))

    def note(items: data.Data, chosen: torch.Tensor, device: torch.device, *given: Any) -> Any:
        asked.append((training.step, chosen, *given))
        return fetch(items, chosen, device, *given)

    monkeypatch.setattr(data.Data, "batch", note)
    training.advance()
    training.advance()
    assert [(step, partners) for step, _, _, partners in asked] == [(0, _mix(3, 4, 0)), (1, _mix(3, 4, 1))]
    assert [step for step, *_ in prepared] == [0], "of the last step there is no next"
    assert torch.equal(prepared[0][1], asked[1][1])
    assert prepared[0][2:] == asked[1][2:] == (slice(0, 300), _mix(3, 4, 1))


def test_a_step_draws_its_own_numbers(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make(seed=5)
    drawn: list[float] = []
    monkeypatch.setattr(training, "learn", lambda _: drawn.append(float(torch.rand(()))))
    training.step = 7
    training.advance()
    torch.manual_seed(_mix(5, 3, 7))
    assert drawn == [float(torch.rand(()))]
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    trainer._seed_all(9, torch.device("cpu"))
    assert seeds == []
    trainer._seed_all(9, torch.device("cuda"))
    assert seeds == [9]
    assert torch.initial_seed() == 9


@pytest.mark.parametrize(("rank", "part"), [(0, slice(0, 2)), (1, slice(2, 4))])
def test_each_process_has_its_share_of_a_batch(make: Make, rank: int, part: slice) -> None:
    training = make(PICTURES, {"world_size": 2, "global_rank": rank})
    assert training.part == part
    assert len(training.fetch()["images"]) == 2
    assert not any(isinstance(m, nn.SyncBatchNorm) for n in training.gan.networks.values() for m in n.modules())


@pytest.mark.parametrize("layout", ["channels-last", "contiguous"])
def test_networks_their_averages_and_optimizers_share_a_layout(make: Make, layout: MemoryFormat) -> None:
    """Fused optimizers pair weights with their state as raw memory; an average follows its weights."""
    training = make({**PICTURES, "ema": 0.5})
    training.advance()
    training.compute("fp32", "library", layout)
    training.advance()
    order = torch.contiguous_format if layout == "contiguous" else torch.channels_last
    networks = (*training.gan.networks.values(), *training.generators.values())
    tensors = [parameter.data for network in networks for parameter in network.parameters()]
    states = [state for each in training.gan.optimizers.values() for state in each.state.values()]
    tensors += [state["exp_avg"] for state in states]
    maps = [tensor for tensor in tensors if tensor.dim() == 4]
    assert len(maps) > 4 and all(tensor.is_contiguous(memory_format=order) for tensor in maps)
    live, average = training.gan.networks["generator"], training.generators["generator"]
    before = [weight.clone() for weight in average.parameters()]
    training.averages["generator"].update(10**6)
    for was, now, towards in zip(before, average.parameters(), live.parameters(), strict=True):
        torch.testing.assert_close(now, (was + towards.detach()) / 2)


def test_both_layouts_compute_the_same(make: Make) -> None:
    one, other = make(PICTURES, memory_format="channels-last"), make(PICTURES, memory_format="contiguous")
    maps = [weight for weight in other.gan.networks["generator"].parameters() if weight.dim() == 4]
    assert maps and all(weight.is_contiguous() for weight in maps)
    for training in (one, other):
        for _ in range(2):
            training.advance()
    for a, b in zip(
        one.gan.networks["generator"].parameters(), other.gan.networks["generator"].parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_networks_train_in_channels_last_on_their_device(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    corrected: list[nn.Module] = []
    monkeypatch.setattr(instance_norm, "correct_gradients", corrected.append)
    networks = make(PICTURES).gan.networks.values()
    assert corrected == list(networks)
    weights = [w for network in networks for w in network.parameters() if w.dim() == 4 and min(w.shape[1:]) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert all(module.training for network in networks for module in network.modules())
    corrected.clear()
    for size, kind in ((1, nn.BatchNorm2d), (2, nn.SyncBatchNorm)):
        elsewhere = make(PICTURES, {"device": torch.device("meta"), "world_size": size}, weight_gradients="im2col")
        assert {w.device.type for n in elsewhere.gan.networks.values() for w in n.parameters()} == {"meta"}
        kinds = {type(m) for m in elsewhere.gan.networks["discriminator"].modules() if hasattr(m, "running_mean")}
        assert kinds == {kind}
        assert not corrected, "this is for the CPU's InstanceNorm alone"


def test_networks_are_compiled_last_and_without_columns(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    columns: list[nn.Module] = []
    monkeypatch.setattr(compiling, "compile_networks", compiled.extend)
    monkeypatch.setattr(trainer, "use_columns", columns.append)
    assert list(make(PICTURES, compile=True, weight_gradients="im2col").gan.networks.values()) == compiled
    assert not columns
    assert list(make(PICTURES, weight_gradients="im2col").gan.networks.values()) == columns
    assert len(compiled) == 2
    make(PICTURES, {"device": torch.device("meta")}, weight_gradients="im2col")
    make(PICTURES, weight_gradients="library")
    assert len(columns) == 2


def test_an_update_changes_its_own_network_alone(make: Make) -> None:
    training = make({"ema": 0.0})
    before = {name: [w.clone() for w in n.parameters()] for name, n in training.gan.networks.items()}
    generator, discriminator = (training.gan.networks[name] for name in ("generator", "discriminator"))
    for keep in (True, False):
        loss = discriminator(generator(torch.ones(4, 2))).square().sum()
        training._update("generator", loss, keep)
        square: Any = loss.grad_fn.next_functions[0][0]  # type: ignore[union-attr]
        with contextlib.nullcontext() if keep else pytest.raises(RuntimeError, match="already been freed"):
            assert square._saved_self is not None, "kept for another pass"
    assert all(w.grad is None for w in discriminator.parameters())
    for name, changed in (("generator", True), ("discriminator", False)):
        pairs = zip(before[name], training.gan.networks[name].parameters(), strict=True)
        assert [not torch.equal(old, new) for old, new in pairs] == [changed] * len(before[name])


def test_gradients_do_not_add_up(make: Make) -> None:
    training = make()
    discriminator = training.gan.networks["discriminator"]
    for _ in range(2):
        discriminator.zero_grad()
        with torch.no_grad():
            for weight in discriminator.parameters():
                weight.grad = torch.full_like(weight, 1e6)
        training._update("discriminator", discriminator(torch.zeros(4, 2)).sum())
        assert all(float(w.grad.abs().max()) < 1e3 for w in discriminator.parameters() if w.grad is not None)


def test_gradients_are_the_mean_over_all_processes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make(fabric={"world_size": 4, "global_rank": 1})
    first, second = torch.arange(6.0).view(2, 3).t(), torch.tensor([8.0])
    monkeypatch.setattr(trainer.dist, "all_reduce", lambda flat: flat.add_(4.0))
    training._average([first, second])
    torch.testing.assert_close(first, (torch.arange(6.0).view(2, 3).t() + 4) / 4)
    torch.testing.assert_close(second, torch.tensor([3.0]))
    counted: list[int] = []
    monkeypatch.setattr(training, "_average", lambda gradients: counted.append(len(gradients)))
    discriminator = training.gan.networks["discriminator"]
    training._update("discriminator", discriminator(torch.zeros(1, 2)).sum())
    assert counted == [len(list(discriminator.parameters()))]
    training.fabric = Fabric(training.fabric, world_size=1)  # type: ignore[assignment]
    training._update("discriminator", discriminator(torch.zeros(1, 2)).sum())
    assert len(counted) == 1


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_arithmetic_of_a_step(make: Make, precision: Any, dtype: torch.dtype) -> None:
    training = make(precision=precision)
    seen: list[torch.dtype] = []
    training.gan.networks["generator"].register_forward_hook(lambda *given: seen.append(given[2].dtype))
    losses = training.learn(training.fetch())
    assert {"loss_d", "loss_g"} <= set(losses)
    assert set(seen) == {dtype}
    assert training.step == 1


def test_an_average_takes_each_step(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make({"ema": 0.9})
    assert training.generators["generator"] is training.averages["generator"].network
    assert training.generators["generator"] is not training.gan.networks["generator"]
    steps: list[int] = []
    monkeypatch.setattr(Average, "update", lambda _, step: steps.append(step))
    training.learn(training.fetch())
    training.learn(training.fetch())
    assert steps == [1, 2], "counted from 1, so that the first already moves it"


def test_an_average_follows_weights_that_are_laid_out_anew() -> None:
    network = nn.Linear(1, 1, bias=False)
    average = Average(network, 0.5)
    network.weight.data = torch.full((1, 1), 3.0)
    for _ in range(60):
        average.update(10**6)
    assert float(average.network.weight.detach()) == pytest.approx(3.0)


def test_a_state_goes_back_as_it_was(make: Make, tmp_path: Path) -> None:
    training = make({"ema": 0.9})
    for _ in range(2):
        training.advance()
    assert (training.step, training.saved) == (2, -1)
    state = training.state()
    assert set(state) == {"networks", "optimizers", "averages", "precision"}
    checkpoint.save(tmp_path, 2, state, 9)
    again = make({"ema": 0.9}, resume=True)
    torch.testing.assert_close(again.state(), state, rtol=0, atol=0)
    assert (again.step, again.saved) == (2, -1), "the weights of that step are not written yet"
    run_folder.write_weights(tmp_path, "generator", again.generators["generator"].state_dict(), 2)
    assert make({"ema": 0.9}, resume=True).saved == 2
    run_folder.write_weights(tmp_path, "generator", again.generators["generator"].state_dict(), 1)
    assert make({"ema": 0.9}, resume=True).saved == -1


def test_resuming_without_a_checkpoint_begins(make: Make) -> None:
    assert make(resume=True).step == 0


@pytest.mark.parametrize("part", ["networks", "optimizers", "averages", "precision"])
def test_a_checkpoint_that_lacks_a_part_is_named(make: Make, tmp_path: Path, part: str) -> None:
    state = make().state()
    del state[part]
    checkpoint.save(tmp_path, 3, state, 9)
    with pytest.raises(ArtifactError, match=rf"checkpoint 3 of .* does not fit its config \('{part}'\): delete"):
        make(resume=True)


def test_a_checkpoint_of_other_shapes_is_named(make: Make, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, make({"width": 5}).state(), 9)
    with pytest.raises(ArtifactError, match=r"checkpoint 3 of .* does not fit its config .*size mismatch"):
        make(resume=True)


def begin(monkeypatch: pytest.MonkeyPatch, networks: dict[str, nn.Module], states: dict[str, Any]) -> None:
    """Start these networks from these states."""
    asked: list[Any] = []

    def read(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
        asked.append((path, names))
        return states

    monkeypatch.setattr(run_folder, "read_networks", read)
    gan = SimpleNamespace(networks=networks)
    training: Any = SimpleNamespace(settings=SimpleNamespace(init=Path("w")), gan=gan, interfaces={"generator": None})
    Trainer._initialise(training)
    assert asked == [(Path("w"), ("generator",))]


def test_weights_to_start_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all networks that learn, also of those behind one that only remembers."""

    class Memory(nn.Module):
        """Earlier pictures."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("pictures", torch.zeros(2))

    def networks() -> dict[str, nn.Module]:
        return {"memory": Memory(), "generator": nn.Linear(2, 2)}

    fresh, old = networks(), networks()
    states = {name: network.state_dict() for name, network in old.items()}
    states["memory"]["pictures"].fill_(5.0)
    begin(monkeypatch, fresh, states)
    torch.testing.assert_close(fresh["generator"].state_dict(), states["generator"])
    assert fresh["memory"].get_buffer("pictures").tolist() == [0.0, 0.0]
    for wrong, message in (
        ({"critic": {}}, "init w holds a critic, which this variant does not have"),
        ({"generator": nn.Linear(3, 2).state_dict()}, "the generator of init w does not fit these options: .*mismatch"),
    ):
        with pytest.raises(UsageError, match=message):
            begin(monkeypatch, networks(), wrong)
    states["generator"]["bias"][1] = math.inf
    with pytest.raises(ArtifactError, match="the generator of init w holds NaN or infinite values: give another"):
        begin(monkeypatch, networks(), states)


def test_weights_to_start_from_are_not_read_where_a_checkpoint_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make({"ema": 0.9}).state()
    read: list[Any] = []
    monkeypatch.setattr(run_folder, "read_networks", lambda *given: read.append(given) or {})
    make(resume=True, init=tmp_path / "other")
    make(init=tmp_path / "other")
    assert len(read) == 2, "nothing to resume, and nothing resumed"
    checkpoint.save(tmp_path, 3, state, 9)
    make(resume=True, init=tmp_path / "other")
    assert len(read) == 2
    make(init=tmp_path / "other")
    assert len(read) == 3


def test_an_optimizer_is_laid_out_as_its_weights() -> None:
    weight = nn.Parameter(torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight])
    plain = torch.arange(96.0, dtype=torch.float64).view(2, 3, 4, 4)
    other = torch.zeros(3)
    optimizer.state[weight] = {"exp_avg": plain, "step": torch.tensor(3.0), "else": other, "count": 4}
    trainer._match_layout(optimizer)
    state = optimizer.state[weight]
    assert state["exp_avg"].stride() == weight.stride() != plain.stride()
    assert state["exp_avg"].dtype == torch.float64
    assert torch.equal(state["exp_avg"], plain)
    assert (float(state["step"]), state["count"]) == (3.0, 4)
    assert state["else"] is other
