"""Tell what was measured: a table for people, one JSON line for programs."""

from __future__ import annotations

from typing import Any

COLUMNS = ("competitor", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "speed-up", "same pictures")


def table(report: dict[str, Any]) -> str:
    """The results as aligned columns."""
    rows = [COLUMNS, *(_row(result) for result in report["results"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(_align(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    machine = report["machine"]
    lines.append(f"{machine['processor']}, {machine['threads']} threads; {_versions(machine['versions'])}")
    loud = [r for r in report["results"] if r["figures"]["spread"] > 0.2]
    if loud:
        worst = max(r["figures"]["spread"] for r in loud)
        lines.append(
            f"the machine was not quiet: medians of turns lie up to {worst:.0%} apart; trust the ratios, not the times"
        )
    return "\n".join(line.rstrip() for line in lines)


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    figures = result["figures"]
    return (
        result["competitor"],
        str(result["batch"]),
        *(f"{figures[key] * 1000:.3f}" for key in ("p50", "p90", "p99")),
        f"{result['images_per_s']:.0f}",
        "" if result["speedup"] is None else f"{result['speedup']:.2f}x",
        _same(result),
    )


def _same(result: dict[str, Any]) -> str:
    if result["same"] is None:
        return ""
    psnr = "identical" if result["psnr"] is None else f"{result['psnr']:.0f} dB"
    return f"{'yes' if result['same'] else 'NO'}, {psnr}"


def _align(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column in (0, len(COLUMNS) - 1) else cell.rjust(width)


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items())
