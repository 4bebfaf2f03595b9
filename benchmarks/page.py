"""The HTML report: one self-contained page with plots and images, without scripts.

write(Path("out.html"), report, pictures, port)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks import report as words
from ganedge.runtime.cli.page import STYLE, TABLE, axes, fill, labels, legend, require, row_of, svg
from ganedge.runtime.cli.terminal import printable
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Port

MAGNIFIED = 8
"""Factor by which differences between pictures are multiplied to make them visible."""
TEMPLATE = (
    TABLE
    + """<!doctype html>
<html lang="en">
"""
    + STYLE
    + """<title>gan-bench: {{ title }}</title>
<h1>{{ title }}</h1>
{% if report.partial %}<p class="warn"><b>Partial:</b> interrupted before everything was measured.</p>{% endif %}
{% for text in failed %}<p class="warn"><b>Failed:</b> {{ text }}</p>{% endfor %}
<p><b>{{ verdict }}</b></p>
{% for text in report.warnings %}<p class="warn">{{ text }}</p>{% endfor %}
{% if choice %}<ul>{% for text in choice %}<li>{{ text }}</li>{% endfor %}</ul>{% endif %}
{% if subject %}<p>{{ subject }}</p>{% endif %}
{{ figures(summary) }}
{% for plot in plots %}<h2>{{ plot.title }}</h2><p>{{ plot.says }}</p>
<div class="scroll plot">{{ plot.svg }}</div>
{% endfor %}
{% if pictures %}<h2>Pictures</h2>
<p>Outputs for the same inputs; below them their difference from the reference, multiplied by {{ magnified }}: black is
equal.</p>
<div class="pictures">{% for picture in pictures %}<figure><figcaption>{{ picture.name }}</figcaption>
<img alt="pictures of {{ picture.name }}" src="{{ picture.shown }}">
{% if picture.apart %}<img alt="their difference from the reference" src="{{ picture.apart }}">{% endif %}</figure>
{% endfor %}</div>{% endif %}
{% for part in details %}<h2>{{ part.title }}</h2>
{{ figures(part) }}
{% endfor %}<h2>Cost of a whole process</h2>
<ul>{% for text in costs %}<li>{{ text }}</li>{% endfor %}</ul>
<h2>Method and machine</h2>
<ul>{% for text in notes %}<li>{{ text }}</li>{% endfor %}</ul>
</html>
"""
)


def write(
    path: Path, report: Mapping[str, Any], pictures: Mapping[str, NDArray[np.generic]], port: Port | None
) -> None:
    """Write the page.

    Args:
        path: The file.
        report: What `latency.measure` gave, or a report read from JSON.
        pictures: The first outputs of each competitor, in the output port's layout; may be empty.
        port: That port; None leaves pictures out.
    """
    write_whole(path, render(report, pictures, port))


def render(report: Mapping[str, Any], pictures: Mapping[str, NDArray[np.generic]], port: Port | None) -> str:
    """Return the page as HTML."""
    require("gan-bench --html")
    from markupsafe import Markup

    plots = [
        {"title": title, "says": says, "svg": Markup(svg)}  # noqa: S704 - drawn here, its text escaped by matplotlib
        for title, says, svg in _plots(report)
    ]
    files = dict.fromkeys(row["file"] for row in report["competitors"].values() if row["file"])
    return fill(
        TEMPLATE,
        title=printable(", ".join(files) or "generators"),
        report=report,
        subject=printable(words.subject(report)),
        verdict=printable(words.verdict(report)),
        choice=[printable(text) for text in (report["choice"] or {}).get("verdict", [])],
        summary=_part(report, "Results", SUMMARY),
        details=[
            _part(report, "Latency in milliseconds", LATENCY),
            _part(
                report, "Fidelity", (*FIDELITY, *(head for head in words.heads(report) if head not in words.COLUMNS))
            ),
            _part(report, "Cost", COST),
        ],
        failed=[printable(words.failure(row)) for row in report["failed"]],
        plots=plots,
        pictures=_pictures(pictures, port, report["reference"]) if port is not None and port.role == "image" else [],
        magnified=MAGNIFIED,
        costs=[printable(text) for text in words.costs(report)],
        notes=[printable(text) for text in words.foot(report)],
    )


SUMMARY = ("batch", "p50 ms", "images/s", "speed-up", "same pictures")
LATENCY = ("batch", "p50 ms", "p90", "p95", "p99", "max", "images/s")
FIDELITY = ("batch", "same pictures", "PSNR dB", "SSIM", "max error")
COST = ("batch", "of peak", "cold start s", "peak MB", "GPU MB", "file MB")
"""Columns of the tables of the page, each narrow enough for a window."""


def _part(report: Mapping[str, Any], title: str, columns: Sequence[str]) -> dict[str, Any]:
    """Return a table of some of the columns, with a row for each competitor and batch size."""
    heads = words.all_heads(report)
    chosen = [heads.index(column) for column in columns]
    rows = []
    for row in report["results"]:
        cells = words.all_cells(row, report)
        shown = (printable(row["competitor"]), *(cells[index] for index in chosen))
        rows.append({"cells": shown, "wrong": row["same"] is False})
    same = columns.index("same pictures") + 1 if "same pictures" in columns else -1
    return {"title": title, "heads": ("competitor", *columns), "rows": rows, "same": same}


def _plots(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return title, explanation and SVG of each plot that the report has data for."""
    if not report["results"]:
        return []
    batches = sorted({row["batch"] for row in report["results"]})
    plots = []
    for batch in batches:
        rows = [row for row in report["results"] if row["batch"] == batch]
        says = "Box: half of all calls; line: from the fastest to the 99th percentile; dot: the slowest."
        plots.append((f"Latency at batch {batch}", says, distribution(rows)))
    if len(batches) > 1:
        plots.append(("Throughput over batch size", "Images a second; higher is better.", _throughput(report)))
    rows = [row for row in report["results"] if row["batch"] == batches[0] and row["psnr"] is not None]
    if rows:
        says = f"At batch {batches[0]}; up and to the left is better. Those identical to the reference are left out."
        plots.append(("Latency against fidelity", says, _fidelity(rows)))
    return plots


def distribution(rows: Sequence[Mapping[str, Any]]) -> str:
    """Plot the distribution of each row's latencies as an SVG element."""
    figure, plot = axes(1.2 + 0.32 * len(rows))
    for index, row in enumerate(rows):
        q = 1000 * np.asarray(row["quantiles"])
        p50, p99, most = (1000 * row["figures"][name] for name in ("p50", "p99", "longest"))
        quarters = np.interp((0.25, 0.75), np.linspace(0, 1, len(q)), q)
        plot.plot((q[0], p99), (index, index), color="0.5", lw=1)
        plot.barh(index, quarters[1] - quarters[0], 0.6, quarters[0], color="C0", alpha=0.6)
        plot.plot((p50, p50), (index - 0.3, index + 0.3), color="k", lw=1.5)
        plot.plot(most, index, ".", color="0.5", ms=4)
    plot.set_yticks(range(len(rows)), labels([row["competitor"] for row in rows]), fontsize=8)
    plot.set_ylim(len(rows) - 0.4, -0.6)
    _logarithmic(plot, "x")
    plot.set_xlabel("milliseconds a call (logarithmic)")
    return svg(figure)


def _throughput(report: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(row["competitor"] for row in report["results"]))
    figure, plot = axes(3.2 + 0.1 * len(names))
    for index, (name, label) in enumerate(zip(names, labels(names), strict=True)):
        rows = [row for row in report["results"] if row["competitor"] == name]
        style = ("-", "--", ":", "-.")[index // 10 % 4]
        plot.plot([r["batch"] for r in rows], [r["images_per_s"] for r in rows], style, marker=".", label=label)
    plot.set_xscale("log", base=2)
    plot.minorticks_off()
    _logarithmic(plot, "y")
    ticks = sorted({row["batch"] for row in report["results"]})
    plot.set_xticks(ticks, [str(tick) for tick in ticks])
    plot.set_xlabel("batch")
    plot.set_ylabel("images a second")
    legend(figure, len(names))
    return svg(figure)


def _fidelity(rows: Sequence[Mapping[str, Any]]) -> str:
    figure, plot = axes(3.2 + 0.1 * len(rows))
    names = labels([row["competitor"] for row in rows])
    for index, (row, label) in enumerate(zip(rows, names, strict=True)):
        marker = "os^Dv"[index // 10 % 5]
        plot.plot(1000 * row["figures"]["p50"], row["psnr"], marker, label=label, alpha=0.8)
    _logarithmic(plot, "x")
    plot.set_xlabel("median milliseconds a call (logarithmic)")
    plot.set_ylabel("PSNR, dB")
    legend(figure, len(names))
    return svg(figure)


def _logarithmic(axes: Any, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_data_interval()
    if not high > 1.5 * low > 0:  # One point, or points as near: room on either side, or there is nothing to read off.
        getattr(axes, f"set_{which}lim")(low / 2, high * 2)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _pictures(pictures: Mapping[str, NDArray[np.generic]], port: Port, reference: str | None) -> list[dict[str, str]]:
    """Return each competitor's pictures, and their differences from the reference's."""
    from ganedge.runtime.pictures.images import to_pixels

    span = port.range or (-1.0, 1.0)
    levels = {
        name: to_pixels(np.nan_to_num(output), span, port.layout).astype(np.int64) for name, output in pictures.items()
    }
    entries = []
    for name, shown in levels.items():
        entry = {"name": printable(name), "shown": row_of(shown), "apart": ""}
        if reference in levels and name != reference:
            entry["apart"] = row_of(np.minimum(MAGNIFIED * np.abs(shown - levels[reference]), 255))
        entries.append(entry)
    return entries
