"""The page of a run: what it measures, what it shows, and that it is one file that nothing in a run can break."""

from __future__ import annotations

import html.parser
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from ganedge.models import find
from ganedge.runtime.errors import GanEdgeError, MissingExtra, UsageError
from ganedge.train import report, run_page
from ganedge.train.__main__ import build
from ganedge.train.examiner import Examiner
from ganedge.train.loop import train
from ganedge.train.metrics import copied, nearest, precision_recall
from ganedge.train.settings import Settings

pytest.importorskip("jinja2", reason="writes pages")
pytest.importorskip("torchmetrics", reason="measures FID")
QUICK: dict[str, Any] = {"judged": 40, "searched": 300, "device": "cpu"}


class _Parsed(html.parser.HTMLParser):
    """Headings, and all that a page would load or run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.foreign: list[str] = []
        self.pictures = 0
        self._open = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.pictures += tag == "img"
        self.foreign += [tag] if tag in ("script", "link", "iframe", "b0ld") else []
        for name, value in attrs:
            is_outside = name in ("src", "href", "xlink:href") and not str(value).startswith(("data:image/", "#"))
            self.foreign += [f"{name}={value}"] if is_outside or name.startswith("on") else []

    def handle_data(self, data: str) -> None:
        if self._open in ("h1", "h2", "h3") and data.strip():
            self.headings.append(data.strip())


def test_neighbours_of_known_sets() -> None:
    source = torch.Generator().manual_seed(0)
    real, new = torch.randn(300, 8, generator=source), torch.randn(200, 8, generator=source)
    memorised = real[:200]
    distances, indices = nearest(memorised, real)
    assert torch.equal(indices[:, 0], torch.arange(200)) and bool((distances[:, 0] == 0).all())
    assert copied(distances).float().mean() == 1, "each is a picture of the data"
    nearly = memorised + 0.01 * torch.randn(200, 8, generator=source)
    assert copied(nearest(nearly, real)[0]).float().mean() == 1, "each is one but for a little noise"
    assert copied(nearest(new, real)[0]).float().mean() < 0.02, "new ones of the same distribution are not"
    others, _ = nearest(real, real, itself=torch.arange(300))
    assert bool((others[:, 0] > 0).all()) and copied(others).float().mean() < 0.02
    twice = torch.cat((real, real))
    assert copied(nearest(memorised, twice)[0]).float().mean() == 1, "also where the data hold each picture twice"


def test_neighbours_do_not_depend_on_how_the_work_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    own = torch.arange(5, 45)
    whole = nearest(real[own], real, itself=own)
    monkeypatch.setattr("ganedge.train.metrics.ROWS", 7)
    for ours, theirs in zip(nearest(real[own], real, itself=own), whole, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_precision_and_recall_of_known_sets() -> None:
    """Kynkäänniemi et al. 2019, section 3: identical sets, dropped modes, noise."""
    source = torch.Generator().manual_seed(0)
    modes = 40 * torch.eye(4).repeat_interleave(100, 0)
    real, fake = (modes + torch.randn(400, 4, generator=source) for _ in range(2))
    assert precision_recall(real, real) == (1, 1)
    precision, recall = precision_recall(real, fake)
    assert precision > 0.85 and recall > 0.85
    for kept in (3, 2, 1):
        dropped = fake[: 100 * kept].repeat(4, 1)[:400]
        precision, recall = precision_recall(real, dropped)
        assert precision > 0.85 and recall < kept / 4 + 0.05, "each mode that is dropped costs recall"
    for share in (0.25, 0.5, 1.0):
        noisy = fake.clone()
        noisy[torch.randperm(400, generator=source)[: int(400 * share)]] += 15 * torch.randn(4, generator=source)
        precision, _ = precision_recall(real, noisy)
        assert precision == pytest.approx(1 - share, abs=0.12), "each picture that is none of the data costs precision"


def test_the_page_of_a_run_is_one_file(tiny_run: Path, tmp_path: Path) -> None:
    made = report(tiny_run, out=tmp_path / "page.html", **QUICK)
    page = _Parsed(made.path)
    assert page.foreign == []
    expected = ["Quality", "Curves", "Losses", "Accuracy of the discriminator", "Learning rate", "Samples over time"]
    expected += ["Nearest neighbours in the data", "Settings of dcgan", "Settings of the training", "Data"]
    assert [heading for heading in page.headings if heading in expected] == expected
    assert page.pictures == 2 + 12, "two samples, and twelve rows of neighbours"
    assert {"fid", "kid", "precision", "recall", "copied"} == set(made.figures)
    assert str(made) == str(tmp_path / "page.html")
    assert "by heart" not in made.path.read_text("utf-8")
    assert report(tiny_run, out=tmp_path / "again.html", **QUICK).figures == made.figures


def test_text_from_a_run_is_escaped(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "<b0ld>"
    shutil.copytree(tiny_run, run)
    config = json.loads((run / "config.json").read_text())
    config["training"]["data"] = "<b0ld onload=x>\x1b[31m"
    (run / "config.json").write_text(json.dumps(config))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 8, "<b0ld>$x$": 1.0, "loss_<b0ld>": 2.0}) + '\n{"step": 9, "los')
    shutil.copy(run / "samples" / "generator-00000008.png", run / "samples" / "<b0ld>-00000008.png")
    made = report(run, only_records=True)
    assert made.path == run / "report.html" and made.figures == {}
    page = _Parsed(made.path)
    assert page.foreign == [] and page.pictures == 3
    text = made.path.read_text("utf-8")
    assert "Only what the run recorded" in text and "\x1b" not in text


def test_a_generator_that_copies_its_data_is_named(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(self: Examiner, _name: str, _networks: Any, count: int) -> Tensor:
        searched = torch.linspace(0, len(self._items) - 1, QUICK["searched"]).long()
        return self._items.pictures("images", searched[:count])

    monkeypatch.setattr(Examiner, "draw", draw)
    made = report(tiny_run, out=tmp_path / "copies.html", **QUICK)
    assert made.figures["copied"] == 1
    text = made.path.read_text("utf-8")
    assert "learned pictures by heart" in text and "40 are at distance 0" in text


def test_a_fid_that_has_risen_again_is_named() -> None:
    lines = [{"step": 1, "fid": 50.0}, {"step": 2, "fid": 10.0}, {"step": 3, "fid": 11.0}]
    assert run_page._warnings({}, lines) == []
    (warning,) = run_page._warnings({}, [*lines, {"step": 4, "fid": 12.0}])
    assert "best, of step 2" in warning
    (warning,) = run_page._warnings({"precision": 0.9, "recall": 0.05}, lines)
    assert warning.startswith("recall is 0.05")


def test_translators_have_figures_and_points_have_none(tmp_path: Path) -> None:
    from PIL import Image

    random = torch.Generator().manual_seed(0)
    for side in ("trainA", "trainB"):
        (tmp_path / "data" / side).mkdir(parents=True)
        for index in range(16):
            pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=random)
            Image.fromarray(pixels.numpy()).save(tmp_path / "data" / side / f"{index}.png")
    how: dict[str, Any] = {"steps": 1, "device": "cpu", "precision": "fp32"}
    small = {"size": 32, "width": 2, "blocks": 0}
    cycle = train(find("cyclegan"), small, Settings(data=str(tmp_path / "data"), out=tmp_path / "cycle", **how))
    figures = report(cycle, **QUICK).figures
    assert {"fid_a2b", "fid_b2a", "recall_a2b"} <= set(figures) and "copied" not in figures
    circles = train(find("circles"), {}, Settings(data="circles", out=tmp_path / "circles", **how))
    made = report(circles, **QUICK)
    assert made.figures == {} and "this run draws points" in made.path.read_text("utf-8")


def test_what_a_user_can_mend(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"nowhere.*--only-records"):
        report(tiny_run, data="/nowhere")
    with pytest.raises(UsageError, match="no option colour: gan-train report --help"):
        report(tiny_run, colour=1)
    with pytest.raises(UsageError, match="judged is 3: give 16 or more"):
        report(tiny_run, judged=3)
    with pytest.raises(GanEdgeError, match="is a folder: give the name of a file"):
        report(tiny_run, out=tmp_path, only_records=True)
    shown = CliRunner().invoke(build(), ["report", str(tiny_run), "--only-records", "--out", str(tmp_path / "p.html")])
    assert shown.exit_code == 0, shown.output
    assert _Parsed(tmp_path / "p.html").pictures == 2
    monkeypatch.setattr("ganedge.runtime.engines.installed", lambda package: package != "jinja2")
    with pytest.raises(MissingExtra, match=r"gan-train report.*ganedge\[report\]"):
        report(tiny_run)
