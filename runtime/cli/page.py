"""What the HTML pages share: their style, tables that fit a phone, plots as SVG and pictures as data URIs.

    figure, axes = axes(3.2)
    axes.plot(steps, losses)
    Markup(svg(figure))

A page is one file that needs no network and no scripts.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ganedge.runtime import engines
from ganedge.runtime.cli.terminal import printable
from ganedge.runtime.errors import MissingExtra

LONGEST, HEAD = 38, 8
"""Longest name in a plot, characters, and how many of them are its beginning when it is shortened."""
WIDTH = 5.2
"""Width of a plot, inches: its text remains readable when it is scaled down to a phone's width."""
SIDE = 128
"""Height to which small pictures are scaled up on a page, pixels."""
TABLE = """{% macro figures(part) %}<div class="scroll table"><table>
<tr>{% for head in part.heads %}<th>{{ head }}</th>{% endfor %}</tr>
{% for row in part.rows %}<tr>{% for cell in row.cells %}
<td data-head="{{ part.heads[loop.index0] }}"{% if row.wrong and loop.index0 == part.same %} class="no"{% endif %}>
{{- cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endmacro %}
"""
"""Macro `figures`: a table of a part with `heads` and `rows` of `cells`; column `same` of a `wrong` row is marked."""
STYLE = """<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 700px) { /* One block for each row: nothing is wider than the window. */
  table, tbody, tr, td { display: block; } tr:first-child { display: none; }
  tr { border-bottom: 1px solid #8884; padding: .4rem 0; } td:empty { display: none; }
  td, td:first-child { border: 0; padding: 0 .2rem; text-align: left; white-space: normal; }
  td:first-child { font-weight: bold; } td:not(:first-child)::before { content: attr(data-head) ": "; opacity: .7; }
}
.no { color: #d33; font-weight: bold; } .warn { border-left: 4px solid #d80; padding-left: .8rem; }
.plot { background: #fff; max-width: 720px; } .plot svg { display: block; width: 100%; height: auto; }
figure { margin: 0 0 1rem; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 1rem; }
.pictures img { max-width: 100%; image-rendering: pixelated; display: block; margin-bottom: 4px; }
li { overflow-wrap: anywhere; }
</style>
"""
"""The head of a page."""


def require(command: str) -> None:
    """Raise MissingExtra if a package for a page is not installed; `command` is what needs it."""
    for package in ("jinja2", "matplotlib"):
        if not engines.installed(package):
            raise MissingExtra(package, "report", command)


def fill(template: str, **values: Any) -> str:
    """Fill a template of Jinja; text is escaped, a value that is missing raises."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(**values)


def axes(height: float) -> tuple[Any, Any]:
    """Make a figure and its axes without pyplot, which would keep a reference to it and look for a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    made = figure.add_subplot()
    made.grid(alpha=0.3)
    made.tick_params(labelsize=8)
    for axis in (made.xaxis, made.yaxis):
        axis.label.set_fontsize(9)
    made.use_sticky_edges = False  # Or a box would begin on the frame.
    made.spines[["top", "right"]].set_visible(False)
    return figure, made


def legend(figure: Any, names: int) -> None:
    """Add the legend below the plot, in two columns."""
    figure.legend(loc="outside lower left", ncols=1 if names < 4 else 2, fontsize=7, frameon=False)


def svg(figure: Any) -> str:
    """Return the figure as an SVG element whose text uses the page's fonts."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.hashsalt": "ganedge"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def labels(names: Sequence[str]) -> list[str]:
    """Shorten names for a plot, and number those that are equal afterwards."""
    shown: list[str] = []
    for name in map(_short, names):
        twins = sum(other.rpartition(" #")[0] == name or other == name for other in shown)
        shown.append(f"{name} #{twins + 1}" if twins else name)
    return shown


def _short(name: str) -> str:
    """Shorten a name in the middle, keeping more of its end, and escape dollar signs, which start a formula."""
    name = printable(name).replace("\n", " ")
    shown = name if len(name) <= LONGEST else f"{name[:HEAD]}…{name[HEAD + 1 - LONGEST :]}"
    return shown.replace("$", r"\$").lstrip("_") or "?"


def row_of(pixels: NDArray[np.generic]) -> str:
    """Join pictures `[N, H, W, C]` in a row, as a data URI; small ones are scaled up by an integer factor."""
    row = np.concatenate(list(pixels.astype(np.uint8)), axis=1)
    factor = max(1, SIDE // row.shape[0])
    row = row.repeat(factor, 0).repeat(factor, 1)
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(row[..., 0] if row.shape[2] == 1 else row).save(out, "PNG")
    return data_uri(out.getvalue(), "png")


def data_uri(content: bytes, fmt: str) -> str:
    """A picture file as a data URI; `fmt` is png or jpeg."""
    return f"data:image/{fmt};base64," + base64.b64encode(content).decode()
