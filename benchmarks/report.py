"""The report as text: a table for the terminal, Markdown for a pull request."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from ganedge.benchmarks import latency, size
from ganedge.benchmarks.arithmetic import number_type
from ganedge.benchmarks.competitor import EAGER
from ganedge.runtime.cli.terminal import printable

COLUMNS = ("batch", "p50 ms", "p90", "p99", "images/s", "speed-up", "same pictures")
"""Columns of the table on a terminal."""
MORE = ("PSNR dB", "SSIM", "max error", "of peak", "cold start s", "peak MB", "GPU MB", "file MB")
"""Further columns of Markdown and the page, which also have p95 and the slowest call."""
DISTANCES = {"fid": "FID", "kid": "KID", "data_fid": "FID to data", "data_kid": "KID to data"}
"""Distances between sets of pictures, and the names of their columns."""
Row = Mapping[str, Any]
WIDEST = 100
"""Largest width of a table on a terminal, characters."""


def verdict(report: Row) -> str:
    """Return one line: the fastest competitor with the same images, its speed-up over the reference and the interval.

    It says so if other processes were running, because ratios are unreliable then.
    """
    rows = [row for row in report["results"] if row["same"] is not False]
    parts: list[str] = []
    base = EAGER if any(row["competitor"] == EAGER for row in rows) else report["reference"]
    for batch in sorted({row["batch"] for row in rows}):
        timed = {row["competitor"]: row for row in rows if row["batch"] == batch}
        if base not in timed or len(timed) < 2:
            continue
        times = {name: row["figures"]["p50"] for name, row in timed.items()}
        best = min((name for name in times if name != base), key=lambda name: times[name])
        ratio = timed[best]["speedup"] or times[base] / times[best]
        shown = _speedup(timed[best]) or f"{_times(ratio)}x"
        parts.append(f"{best} {shown} at batch {batch}" if ratio > 1 else f"{base} itself at batch {batch}")
    if not parts:
        return "fastest with the same pictures: nothing to compare with"
    others = report["conditions"].get("during", {}).get("others") or 0.0
    doubt = " (unreliable, because other processes were running)" if others > latency.OTHERS else ""
    return f"fastest with the same pictures, relative to {base}{doubt}: {'; '.join(parts)}"


def table(report: Row, verbose: bool = False) -> str:
    """Format the results for a terminal; long names of competitors get lines of their own.

    Args:
        report: What `latency.measure` returned.
        verbose: Add method, costs of a whole process, what was not measured and why.
    """
    width = min(WIDEST, max(60, shutil.get_terminal_size((80, 24)).columns))
    columns = heads(report)
    rows = [columns, *(cells(result, report) for result in report["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    names = [printable(result["competitor"]) for result in report["results"]]
    room = width - sum(widths) - 2 * len(widths)
    fits = max(map(len, names), default=0) <= room
    left = max(len("competitor"), *map(len, names)) if fits and names else 0
    lines = [("competitor".ljust(left) + "  " if fits else "") + _aligned(columns, widths)]
    lines.append("-" * len(lines[0].rstrip()))
    shown = ""
    for name, row in zip(names, rows[1:], strict=True):
        if not fits and name != shown:
            lines.append(name)
        shown = name
        lines.append((name.ljust(left) + "  " if fits else "") + _aligned(row, widths))
    taken = subject(report)
    lines = [*textwrap.wrap(printable(taken), width), *lines] if taken else lines
    notes = [verdict(report), *(foot(report) if verbose else summary(report))]
    for note in [*notes, *(costs(report) if verbose else ())]:
        lines += textwrap.wrap(printable(note), width, subsequent_indent="  ")
    return "\n".join(line.rstrip() for line in lines)


def markdown(report: Row) -> str:
    """Format the results as Markdown, for a pull request."""
    texts = ("competitor", "same pictures")
    columns = ("competitor", *all_heads(report))
    lines = [
        *([escaped(subject(report)), ""] if subject(report) else []),
        "| " + " | ".join(columns) + " |",
        "|" + "".join("---|" if name in texts else "---:|" for name in columns),
    ]
    for result in report["results"]:
        shown = (result["competitor"], *all_cells(result, report))
        lines.append("| " + " | ".join(escaped(cell) for cell in shown) + " |")
    lines += ["", *(f"- {escaped(note)}" for note in foot(report))]
    return "\n".join(lines) + "\n"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    last = len(row) - 1
    return "  ".join(
        cell.ljust(width) if i == last else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )


def subject(report: Row) -> str:
    """Return the inputs and their size as a line; empty if the report does not contain them."""
    return f"input: {size.shown(report['inputs'], report['size'])}" if report["inputs"] else ""


def heads(report: Row) -> tuple[str, ...]:
    """Return the names of the columns after the competitor's."""
    distance = report["distance"]
    if distance is None:
        return COLUMNS
    mark = "" if distance["features"] == "inception" else "*"
    return (*COLUMNS, *(DISTANCES[name] + mark for name in _distances(report)))


def cells(result: Row, report: Row) -> tuple[str, ...]:
    """Format one result, one text for each of `heads`."""
    figures = result["figures"]
    costs = report["competitors"].get(result["competitor"], {})
    return (
        str(result["batch"]),
        *(f"{figures[key] * 1000:.3f}" for key in ("p50", "p90", "p99")),
        f"{result['images_per_s']:.{0 if result['images_per_s'] >= 10 else 2}f}",
        _speedup(result),
        _same(result),
        *(_number(costs.get(name), ".4f" if "kid" in name else ".2f") for name in _distances(report)),
    )


def all_heads(report: Row) -> tuple[str, ...]:
    """Return the names of all columns of Markdown and the page."""
    batch, p50, p90, p99, *rest = heads(report)
    return (batch, p50, p90, "p95", p99, "max", *rest, *MORE)


def all_cells(result: Row, report: Row) -> tuple[str, ...]:
    """Format one result, one text for each of `all_heads`."""
    whole = report["competitors"].get(result["competitor"], {})
    batch, p50, p90, p99, *rest = cells(result, report)
    p95, longest = (f"{result['figures'][key] * 1000:.3f}" for key in ("p95", "longest"))
    return (
        *(batch, p50, p90, p95, p99, longest, *rest),
        _number(result["psnr"], ".1f"),
        _number(result["ssim"], ".4f"),
        _number(result["max_abs"], ".2g"),
        _share(result["peak_share"]),
        _number(whole.get("cold_start_s"), ".2f"),
        _number(whole.get("peak_bytes"), ".0f", 1e6),
        _number(whole.get("device_bytes"), ".0f", 1e6),
        _number(whole.get("bytes"), ".1f", 1e6),
    )


def _distances(report: Row) -> list[str]:
    """Return the distances that at least one competitor has."""
    if report["distance"] is None:
        return []
    rows = report["competitors"].values()
    return [name for name in DISTANCES if any(row.get(name) is not None for row in rows)]


def _speedup(result: Row) -> str:
    if result["speedup"] is None:
        return ""
    value, low, high = (
        None if result[key] is None else _times(result[key]) for key in ("speedup", "speedup_low", "speedup_high")
    )
    return f"{value}x (too few rounds)" if low is None else f"{value}x ({low}-{high})"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"


def _same(result: Row) -> str:
    if result["same"] is None:
        return ""
    psnr = "identical" if result["psnr"] is None else f"{result['psnr']:.0f} dB"
    return f"{'yes' if result['same'] else 'NO'}, {psnr}"


def costs(report: Row) -> list[str]:
    """Return one line for each competitor: size, cold start, memory and arithmetic."""
    lines = []
    for name, row in report["competitors"].items():
        parts = [
            f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "",
            f"first result after {row['cold_start_s']:.2f} s" if row["cold_start_s"] is not None else "",
            f"{row['peak_bytes'] / 1e6:.0f} MB of memory at most" if row["peak_bytes"] else "",
            f"{row['device_bytes'] / 1e6:.0f} MB of the GPU's" if row.get("device_bytes") else "",
            f"{row['macs'] / 1e6:.4g} M multiply-accumulates an item" if row["macs"] else "",
        ]
        computes = row.get("computes") or row["precision"]
        parts.append(f"computes in {computes}" if computes != row["precision"] else "")
        shares = [r["peak_share"] for r in report["results"] if r["competitor"] == name and r["peak_share"]]
        share = _share(max(shares, default=None))
        parts.append(f"{share} of the peak in {number_type(computes)} at best" if share else "")
        lines.append(f"{name}: " + ", ".join(part for part in parts if part))
    return lines


def summary(report: Row) -> list[str]:
    """Return lines on the machine, the recommendation (with --choose), failures and warnings."""
    notes = [_machine(report), *(report["choice"]["verdict"] if report.get("choice") else [])]
    if report["distance"]:
        notes.append(_distance(report))
    return [*notes, *_problems(report)]


def _machine(report: Row) -> str:
    machine = report["machine"]
    threads = f"{machine['threads']} thread" + ("s" if machine["threads"] != 1 else "")
    return f"machine: {machine['processor']}, {threads}" + (f", {machine['gpu']}" if machine.get("gpu") else "")


def _problems(report: Row) -> list[str]:
    notes = [f"FAILED: {failure(competitor)}" for competitor in report["failed"]]
    notes += [f"warning: {text}" for text in report["warnings"]]
    if any((row["peak_share"] or 0.0) > 1.0 for row in report["results"]):
        notes.append("warning: the machine was busy while its peak was measured: shares of it are not shown")
    return [*notes, "PARTIAL: interrupted before everything was measured"] if report["partial"] else notes


def foot(report: Row) -> list[str]:
    """Return lines on machine, method, conditions, absent competitors, failures and warnings."""
    machine, method = report["machine"], report["method"]
    notes = [
        _machine(report),
        ", ".join(f"{name} {number}" for name, number in machine["versions"].items()),
        f"timed: {method['timed']}; {method['order']}; warm-up {method['warmup']}; "
        + (f"{method['renewed']}; " if "renewed" in method else "")
        + f"at least {method['seconds']:g} s and {method['iterations']} calls each"
        + (f", {method['longer']}" if "longer" in method else "")
        + "; nothing dropped; "
        + (f"ratios {method['ratio']}; " if "ratio" in method else "")
        + f"intervals {method['interval']}",
    ]
    if method["strict"]:
        notes.append(
            "strict: single stream as in MLPerf inference: batch 1, the result is the 90th percentile of the calls "
            "(without MLPerf's early-stopping bound); ratios are of lower quartiles"
        )
    notes += [_pool(method["pool"])] if method.get("pool") else []
    notes.append(_peak(report["peak"]))
    state = _state(report["conditions"])
    notes += [f"state: {state}"] if state else []
    if report["reference"]:
        notes.append(f"pictures compared with {report['reference']}")
    if report["distance"]:
        notes.append(_distance(report))
    for result in report["results"]:
        split = result.get("split")
        if split:
            notes.append(
                f"{result['competitor']}, batch {result['batch']}: {split['to_device'] * 1000:.3f} ms to the device, "
                f"{split['compute'] * 1000:.3f} computing, {split['to_host'] * 1000:.3f} back"
            )
    if report.get("choice"):
        notes += report["choice"]["verdict"]
    notes += [f"command: {report['command']}"] if report.get("command") else []
    notes += [f"absent: {name}: {why}" for name, why in report["absent"].items()]
    return [*notes, *_problems(report)]


def _pool(pool: Row) -> str:
    """Return a line on the size of the input pools and the largest cache."""
    sizes = ", ".join(f"{facts['bytes'] / 1e6:.0f} MB at batch {batch}" for batch, facts in pool.items())
    cache = next(iter(pool.values()))["cache_bytes"]
    return f"inputs: a pool of {sizes}; the largest cache holds {cache / 1e6:.0f} MB"


def _peak(peak: Row) -> str:
    """Return a line on the measured peaks, and below which arithmetic intensity memory is the limit."""
    parts = [f"{name} {flops / 1e9:.0f} GFLOP/s" for name, flops in peak["flops"].items()]
    if peak["bandwidth"]:
        ridges = ", ".join(f"{flops / peak['bandwidth']:.0f} ({name})" for name, flops in peak["flops"].items())
        speed = f"{peak['bandwidth'] / 1e9:.1f} GB/s"
        parts.append(f"memory {speed}, the limit below {ridges or '?'} operations for each byte")
    return f"peak: {', '.join(parts) or 'unknown'}: {peak['how']}"


def failure(row: Row) -> str:
    """Return a failed competitor and its reason as a line."""
    return f"{row['competitor']}, batch {row['batch']}: {row['reason']}"


def _distance(report: Row) -> str:
    """Return a line on how FID and KID were computed, and what they are comparable with."""
    distance = report["distance"]
    parts = [f"FID and KID over {distance['pictures']} pictures of each, of the same latents, to {report['reference']}"]
    if distance["data"] is not None:
        parts.append(f"and to {distance['data_pictures']} pictures of {distance['data']}")
    if distance["features"] == "inception":
        return " ".join(parts) + "; features of Inception"
    features = {"small": "small features of random weights", "efficientnet": "features of EfficientNet-Lite0"}
    return " ".join(parts) + f"; * {features[distance['features']]}: not comparable with Inception's figures"


def _state(conditions: Row) -> str:
    """Return clock, governor, temperature and power before, during and after timing as a line."""
    parts = []
    for when, state in conditions.items():
        parts_of_state = [_state_text(name, value) for name, value in state.items()]
        parts += [f"{when} {', '.join(parts_of_state)}"] if parts_of_state else []
    return "; ".join(parts)


def _state_text(name: str, value: object) -> str:
    if name == "others" and isinstance(value, float):
        return f"other processes used {value:.0%} of the cores"
    return f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}"


def _share(value: float | None) -> str:
    """Format a share of the machine's peak; empty above 100 %, because then the peak was measured on a busy machine."""
    return "" if value is None or value > 1.0 else f"{value:.0%}"


def _number(value: float | None, spec: str, unit: float = 1.0) -> str:
    if value is None:
        return ""
    text = format(value / unit, spec)
    return text if float(text) else text.removeprefix("-")  # No minus before a zero.


def escaped(text: str) -> str:
    """Escape text so that it cannot break out of a Markdown table or become HTML."""
    text = printable(text).replace("\n", " ")
    for sign in "\\`*_[]|":
        text = text.replace(sign, "\\" + sign)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
