"""The page of a run: one self-contained HTML file with curves, samples, neighbours and settings, without scripts.

html = render(run, step=5000, figures={"fid": 12.3}, measured="Features of the network small.", neighbours=None)
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ganedge.runtime.cli.page import STYLE, TABLE, axes, data_uri, fill, labels, legend, row_of, svg
from ganedge.runtime.cli.terminal import printable
from ganedge.train.record import METRICS
from ganedge.train.run_folder import Run, name_of_data

if TYPE_CHECKING:
    from ganedge.train.neighbours import Neighbours

POINTS = 400
"""Most points of a curve: more lines of the metrics are averaged."""
MOMENTS = 6
"""Samples over time that are shown of each generator."""
LARGE = 250_000
"""Bytes from which a sample's file is embedded as JPEG."""
PICTURE_SIZE = 1400
"""Longest side of an embedded sample, pixels; a larger one is scaled down."""
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Losses": ("loss",),
    "Accuracy of the discriminator": ("accuracy",),
    "FID": ("fid",),
    "KID": ("kid",),
    "Precision and recall": ("precision", "recall"),
    "Learning rate": ("lr",),
}
"""Curves that share a plot, by the beginnings of their names. Each other column of the metrics has its own plot."""
NOT_PLOTTED = ("step", "epoch")
MEANING = {
    "fid": "distance between the distributions; lower is nearer, 0 is equal",
    "kid": "the same with another measure, unbiased for few pictures; lower is nearer",
    "precision": "share of the generated pictures that lie among the real ones: low means unreal pictures",
    "recall": "share of the real pictures that lie among the generated ones: low means missing variety",
}
TEMPLATE = (
    TABLE
    + """<!doctype html>
<html lang="en">
"""
    + STYLE
    + """<title>gan-train report: {{ title }}</title>
<style>
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 1rem; }
.plots h3 { font-size: .95rem; margin: .2rem 0; }
.kept td, .kept th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.tables { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 0 1rem; }
</style>
<h1>{{ title }}</h1>
<p><b>{{ verdict }}</b></p>
{% for text in warnings %}<p class="warn">{{ text }}</p>{% endfor %}
<h2>Quality</h2>
<p>{{ measured }}</p>
{% if quality.rows %}<div class="kept">{{ figures(quality) }}</div>{% endif %}
<h2>Curves</h2>
{% if not plots %}<p>The run recorded no metrics.</p>{% endif %}
<div class="plots">{% for plot in plots %}<div><h3>{{ plot.title }}</h3>
<div class="scroll plot">{{ plot.svg }}</div></div>
{% endfor %}</div>
<h2>Samples over time</h2>
{% if not samples %}<p>The run wrote no samples.</p>{% else %}<p>The same noise or examples each time.</p>{% endif %}
<div class="pictures">{% for picture in samples %}<figure><figcaption>{{ picture.name }}</figcaption>
<img alt="samples of {{ picture.name }}" src="{{ picture.shown }}"></figure>
{% endfor %}</div>
{% if neighbours %}<h2>Nearest neighbours in the data</h2>
{% for text in neighbours.texts %}<p{% if neighbours.wrong %} class="warn"{% endif %}>{{ text }}</p>{% endfor %}
<div class="pictures">{% for picture in neighbours.rows %}<figure><figcaption>{{ picture.name }}</figcaption>
<img alt="a generated picture and the two nearest real ones" src="{{ picture.shown }}"></figure>
{% endfor %}</div>{% endif %}
<div class="kept tables">{% for part in settings %}<div><h2>{{ part.title }}</h2>
{{ figures(part) }}</div>
{% endfor %}</div>
</html>
"""
)


def render(run: Run, step: int, figures: Mapping[str, float], measured: str, neighbours: Neighbours | None) -> str:
    """Return the page as HTML.

    Args:
        run: The run.
        step: Of the weights that were measured.
        figures: What was measured of them; may be empty.
        measured: How, or why nothing was.
        neighbours: The nearest real pictures of generated ones; None leaves the section out.
    """
    lines = read_metrics(run.folder)
    data = name_of_data(str(run.settings.get("data", "")))
    near = _neighbours(neighbours) if neighbours is not None else None
    return fill(
        TEMPLATE,
        title=printable(f"{run.variant.name} on {data}"),
        verdict=_verdict(step, figures, lines),
        warnings=_warnings(figures, lines),
        measured=printable(measured),
        quality=_quality(figures),
        plots=_plots(lines),
        samples=_samples(run.folder),
        neighbours=near,
        settings=_settings(run),
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; one that was cut off by a kill is left out."""
    path = folder / METRICS
    lines: list[dict[str, Any]] = []
    for text in path.read_text("utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def _column(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values of a metric."""
    return [(line["step"], float(line[name])) for line in lines if isinstance(line.get(name), (int, float))]


def _verdict(step: int, figures: Mapping[str, float], lines: Sequence[Mapping[str, Any]]) -> str:
    """The line under the title."""
    parts = [f"step {step}"]
    parts += [f"{label} {figures[name]:.4g}" for name, label in (("fid", "FID"),) if name in figures]
    parts += [f"{name} {figures[name]:.2f}" for name in ("precision", "recall") if name in figures]
    history = _column(lines, "fid")
    if history:
        best_step, best = min(history, key=lambda item: item[1])
        parts.append(f"best recorded FID {best:.4g} at step {best_step}")
    return ", ".join(parts)


def _warnings(figures: Mapping[str, float], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader should not overlook in the figures."""
    warnings = []
    history = _column(lines, "fid")
    if history and history[-1][1] > 1.15 * min(value for _, value in history):
        step = min(history, key=lambda item: item[1])[0]
        warnings.append(
            f"The last recorded FID is more than 15 % above the best, of step {step}: gan-export --checkpoint best."
        )
    recalls = {name: value for name, value in figures.items() if name.startswith("recall")}
    for name, value in recalls.items():
        precision = figures.get(name.replace("recall", "precision"), 0.0)
        if value < 0.1 < precision:
            warnings.append(f"{name} is {value:.2f}: the generator draws few of the kinds of pictures in the data.")
    return warnings


def _quality(figures: Mapping[str, float]) -> dict[str, Any]:
    """The table of what was measured."""
    rows = []
    for name, value in figures.items():
        meaning = next((text for key, text in MEANING.items() if name.startswith(key)), "")
        rows.append({"cells": (name, f"{value:.4g}", meaning), "wrong": False})
    return {"heads": ("figure", "value", "meaning"), "rows": rows, "same": -1}


def _plots(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Title and SVG of each plot that there are data for."""
    from markupsafe import Markup

    names = [name for name in dict.fromkeys(key for line in lines for key in line) if name not in NOT_PLOTTED]
    grouped: dict[str, list[str]] = {}
    for name in names:
        title = next((title for title, starts in GROUPS.items() if name.startswith(starts)), printable(name))
        if _column(lines, name):
            grouped.setdefault(title, []).append(name)
    order = [*(title for title in GROUPS if title in grouped), *(title for title in grouped if title not in GROUPS)]
    return [
        {"title": title, "svg": Markup(_curves(lines, grouped[title]))}  # noqa: S704 - drawn here, its text escaped
        for title in order
    ]


def _curves(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Plot some metrics over the steps as an SVG element."""
    figure, plot = axes(2.4 + 0.1 * len(names))
    for name, label in zip(names, labels(names), strict=True):
        points = np.array(_column(lines, name))
        parts = np.array_split(points, min(len(points), POINTS))
        means = np.array([part.mean(0) for part in parts])
        plot.plot(means[:, 0], means[:, 1], marker="." if len(means) < 30 else "", lw=1.2, label=label)
    plot.set_xlabel("step")
    if len(names) > 1:
        legend(figure, len(names))
    return svg(figure)


def _samples(folder: Path) -> list[dict[str, str]]:
    """Samples of each generator, evenly spread over the training, the last one included."""
    taken: dict[str, dict[int, Path]] = {}
    for path in sorted((folder / "samples").glob("*-[0-9]*.png")):
        name, _, step = path.stem.rpartition("-")
        if step.isascii() and step.isdecimal():
            taken.setdefault(name, {})[int(step)] = path
    entries = []
    for name, paths in taken.items():
        steps = sorted(paths)
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(MOMENTS, len(steps))).round().astype(int))
        prefix = "" if name == "generator" else f"{printable(name)}, "
        entries += [{"name": f"{prefix}step {steps[i]}", "shown": _embedded(paths[steps[i]])} for i in chosen]
    return entries


def _embedded(path: Path) -> str:
    """A picture file as a data URI; a large one is made smaller, as JPEG."""
    content = path.read_bytes()
    if len(content) <= LARGE:
        return data_uri(content, "png")
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        smaller = picture.convert("RGB")
    smaller.thumbnail((PICTURE_SIZE, PICTURE_SIZE))
    out = io.BytesIO()
    smaller.save(out, "JPEG", quality=88)
    return data_uri(out.getvalue(), "jpeg")


def _neighbours(near: Neighbours) -> dict[str, Any]:
    """The section of nearest neighbours."""
    searched = "all" if near.searched == near.items else f"{near.searched} of the"
    texts = [
        f"{near.copied:.2%} of {near.drawn} generated pictures are copies of a real one: equal to it, or nearer to it "
        f"than a third of the distance to the next nearest. {near.equal} are at distance 0. Of real pictures, "
        f"{near.copied_real:.2%} are as near to another real one. Searched: {searched} {near.items} pictures."
    ]
    if near.is_suspicious:
        texts.append(
            "The generator has learned pictures by heart: use more data, --augment auto, or an earlier checkpoint."
        )
    rows = [
        {"name": f"distance {ratio:.2f} of that to the next nearest", "shown": row_of(row.permute(0, 2, 3, 1).numpy())}
        for ratio, row in near.rows
    ]
    texts.append(
        "Each row: a generated picture, the nearest real one and the next. The first half has the smallest ratios."
    )
    return {"texts": texts, "wrong": near.is_suspicious, "rows": rows}


def _settings(run: Run) -> list[dict[str, Any]]:
    """Tables of the config, the training's settings and the data."""
    parts: Mapping[str, Mapping[str, Any]] = {
        f"Settings of {run.variant.name}": asdict(run.config),
        "Settings of the training": run.settings,
        "Data": run.data,
    }
    return [
        {
            "title": title,
            "heads": ("setting", "value"),
            "rows": [{"cells": (printable(key), printable(str(value))), "wrong": False} for key, value in kept.items()],
            "same": -1,
        }
        for title, kept in parts.items()
    ]
