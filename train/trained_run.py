"""What `train` returns: a run folder, its metrics and its last sample pictures."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainedRun:
    """A run folder after training. It can be used as its path; a notebook shows its samples."""

    path: Path
    """The run folder."""

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """The reports in order: `step`, `epoch`, losses, `images_per_s`, and figures such as `fid` where measured."""
        file = self.path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []

    @property
    def last_metrics(self) -> dict[str, Any]:
        """The last value of each metric."""
        return {name: value for report in self.metrics() for name, value in report.items()}

    @property
    def sample(self) -> Path | None:
        """The last picture of what a generator makes of the fixed noise or examples; None where there is none."""
        pictures = (self.path / "samples").glob("*-[0-9]*.png")
        return max(pictures, key=lambda path: path.stem.rpartition("-")[2], default=None)

    def _repr_png_(self) -> bytes | None:
        return self.sample.read_bytes() if self.sample is not None else None

    def _repr_html_(self) -> str:
        png = self._repr_png_()
        image = f'<br><img src="data:image/png;base64,{base64.b64encode(png).decode()}">' if png else ""
        return f"<code>{escape(str(self.path))}</code>, step {self.last_metrics.get('step', 0)}{image}"
