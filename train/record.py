"""Record a training: a line of metrics.jsonl for each report, and TensorBoard events with `--tensorboard`.

with Record(folder, step=0, tensorboard=True) as record:
    record.write({"step": 100, "loss_d": 1.2, "loss_g": 0.9})
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ganedge.runtime.errors import GanEdgeError, MissingExtra
from ganedge.runtime.files import write_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"
BOARD = "tensorboard"
"""Folder of the events, inside the run."""


class Record:
    """The metrics of one run folder.

    Args:
        folder: The run folder.
        step: Where training begins; what was written of later steps is forgotten.
        tensorboard: Write events for TensorBoard too.

    Raises:
        MissingExtra: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self.path = folder / METRICS
        lines: list[str] = []
        if self.path.exists():
            text = self.path.read_text("utf-8", errors="replace")
            lines = [line for line in text.splitlines() if _step_of(line) <= step]
            write_whole(self.path, "".join(f"{line}\n" for line in lines))
        self._last = [set(json.loads(line)) for line in lines if _step_of(line) == step]
        self._board = _open_board(folder / BOARD, step) if tensorboard else None

    def holds(self, name: str) -> bool:
        """Whether a figure of the step where training began was written down before."""
        return any(name in names for names in self._last)

    def write(self, line: Mapping[str, float]) -> None:
        """Add the figures of `line["step"]`.

        Raises:
            GanEdgeError: they cannot be written, as on a full disk.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self._board is not None:
                for name, value in line.items():
                    if name != "step":
                        self._board.add_scalar(name, value, int(line["step"]))
                self._board.flush()
        except OSError as error:
            raise GanEdgeError(f"cannot write {self.path}: {error.strerror or error}") from error

    def picture(self, name: str, path: Path, step: int) -> None:
        """Show a picture that was written."""
        if self._board is not None:
            with Image.open(path) as image:
                self._board.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()


def _open_board(folder: Path, step: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtra("tensorboard", "train", "--tensorboard") from error
    # At step 0 too: a kill may come before the first checkpoint.
    return SummaryWriter(str(folder), purge_step=step + 1)


def _step_of(line: str) -> float:
    """Return the step of a metrics line; infinite for a line that was cut off when the process was killed."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
