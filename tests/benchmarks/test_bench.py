"""The Python API of gan-bench."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from ganedge.benchmarks import bench
from ganedge.benchmarks.report import verdict
from ganedge.runtime import timing
from ganedge.runtime.errors import GanEdgeError, UsageError

QUICK = {"seconds": 0.02, "iterations": 2, "processes": 0, "engine": "onnxruntime"}
LEGACY = Path(__file__).parents[1] / "legacy"


@dataclass(frozen=True)
class Exported:
    """What `export` returns, as far as it matters here."""

    path: Path


def test_artifacts_and_paths(artifact: Path, tmp_path: Path) -> None:
    report = bench([Exported(artifact)], batch=[1, 2], **QUICK)
    assert {row["batch"] for row in report.data["results"]} == {1, 2}
    assert {row["competitor"] for row in report.data["results"]} == {f"{artifact.name}, onnxruntime"}
    assert str(report) == report.table()
    assert "timed:" not in report.table()
    assert "timed:" in report.table(verbose=True)
    assert json.loads(report.to_json(tmp_path / "out.json")) == report.data
    assert (tmp_path / "out.json").read_text() == report.to_json() + "\n"
    assert report.to_markdown().startswith("input: ")
    assert report._repr_html_().startswith("<pre>")
    report.check()
    report.to_html(tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert page.index(report.verdict) < page.index("<table>"), "the verdict stands at the top"


def test_settings_are_checked_before_anything_is_opened() -> None:
    with pytest.raises(UsageError, match="no setting second: did you mean seconds"):
        bench(["nowhere.onnx"], second=3)
    with pytest.raises(UsageError, match="--weights describes the generator to compare with"):
        bench(["nowhere.onnx"], weights="netG.pth")
    with pytest.raises(UsageError, match="--batch is 'a'"):
        bench(["nowhere.onnx"], batch="a")
    with pytest.raises(GanEdgeError, match=r"cannot read nowhere\.onnx"):
        bench(["nowhere.onnx"], **QUICK)


def test_the_verdict_names_the_fastest_with_the_same_pictures() -> None:
    report = json.loads((LEGACY / "report.json").read_text())
    assert verdict(report).startswith(
        "fastest with the same pictures, relative to eager PyTorch: dcgan.onnx, onnxruntime "
    )
    for row in report["results"]:
        row["same"] = None if row["competitor"] == "eager PyTorch" else row["competitor"] == "dcgan.onnx, openvino"
    assert "dcgan.onnx, openvino" in verdict(report)
    report["results"] = report["results"][:1]
    assert "nothing to compare with" in verdict(report)


def test_no_share_of_the_peak_above_the_peak() -> None:
    from ganedge.benchmarks import report as words

    report = json.loads((LEGACY / "report.json").read_text())
    for row in report["results"]:
        row["peak_share"] = 1.79
    assert "179%" not in words.table(report, verbose=True)
    assert "busy while its peak was measured" in words.table(report)


@pytest.mark.parametrize("io", ["float", "uint8"])
def test_normalised_inputs_are_described_as_in_the_export(tmp_path: Path, io: str) -> None:
    pytest.importorskip("torch")
    from ganedge.export import export

    (tmp_path / "nets.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return torch.sigmoid(x)\n"
    )
    about = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "output_range": (0, 1)}
    net = f"{tmp_path}/nets.py:Net"
    made = export(net, kind="image", input="3x16x16", output=tmp_path / "g.onnx", io=io, **about).path
    report = bench([made], against=net, batch=[1], **about, **QUICK)
    assert report.data["results"][1]["same"] is True


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An artifact of a network's second result with its inner noise of seed 3, and the network."""
    pytest.importorskip("torch")
    from ganedge.export import export

    folder = tmp_path_factory.mktemp("noisy")
    (folder / "nets.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        "        return x * 0.5, torch.tanh(x) * 0.5 + 0.5 * torch.tanh(torch.randn_like(x[:, :1]))\n"
    )
    net = f"{folder}/nets.py:Net"
    artifact = export(net, kind="image", input="3x16x16", output=folder / "g.onnx", result=1, noise_seed=3)
    return artifact.path, net


@pytest.mark.parametrize(
    ("stated", "same"),
    [
        ({"result": 1, "noise_seed": 3}, True),
        ({"result": 1, "noise_seed": 4}, False),
        ({"result": 0, "noise_seed": 3}, False),
    ],
)
def test_the_reference_has_the_stated_result_and_noise(
    noisy: tuple[Path, str], stated: dict[str, int], same: bool
) -> None:
    path, net = noisy
    report = bench([path], against=net, batch=[1], **stated, **QUICK)
    assert report.data["results"][1]["same"] is same


def test_the_method_names_how_long_ratios_are_measured(artifact: Path) -> None:
    report = bench([artifact], batch=[1], **QUICK)
    assert f"{timing.FEWEST} rounds at least" in " ".join(report.table(verbose=True).split())


def test_the_verdict_has_the_interval_and_names_a_busy_machine() -> None:
    report = json.loads((LEGACY / "report.json").read_text())
    best = next(row for row in report["results"] if row["competitor"] == "dcgan.onnx, onnxruntime")
    best |= {"speedup": 4408.07, "speedup_low": 3873.13, "speedup_high": 4561.83}
    report["conditions"]["during"] = {"others": 0.78}
    text = verdict(report)
    assert "relative to eager PyTorch (unreliable, because other processes were running): " in text
    assert "dcgan.onnx, onnxruntime 4408x (3873-4562) at batch" in text
    report["conditions"]["during"] = {"others": 0.02}
    assert "unreliable" not in verdict(report)


def test_no_minus_before_a_zero() -> None:
    from ganedge.benchmarks import report as words

    report = json.loads((LEGACY / "report.json").read_text())
    report["distance"] = {"features": "small", "pictures": 64, "data": None, "data_pictures": None}
    for costs in report["competitors"].values():
        costs |= {"fid": 0.0, "kid": -3e-5}
    assert words.cells(report["results"][1], report)[-1] == "0.0000"
