"""An artifact in the engines of a browser, timed by the page's own clock.

    competitors, absent = browser_competitors(Path("digits-web"), threads=2)

What is timed is one call of the page's module, from arrays to arrays in the page, worker and all. The way of the arrays
between Python and the page is not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ganedge.benchmarks.competitor import Competitor, Inputs
from ganedge.benchmarks.isolated import Pool
from ganedge.runtime import timing
from ganedge.runtime.engines import browser
from ganedge.runtime.errors import EngineError
from ganedge.runtime.manifest import Interface
from ganedge.runtime.web_folder import WebFolder


def browser_competitors(folder: Path, threads: int) -> tuple[list[Competitor], dict[str, str]]:
    """A folder that `gan-export --format web` wrote, in WASM and in WebGPU.

    Args:
        folder: The folder.
        threads: Of WASM.

    Returns:
        The competitors, and by name why others are absent.

    Raises:
        ArtifactError: no such folder, or its artifact was exchanged.
    """
    names = {provider: f"{folder.name}, onnxruntime-web {provider}" for provider in browser.PROVIDERS}
    if reason := browser.missing():
        return [], dict.fromkeys(names.values(), reason)
    chromium = browser.Browser(folder)
    competitors: list[Competitor] = []
    absent: dict[str, str] = {}
    for provider, name in names.items():
        try:
            engine = chromium.start(provider, threads)
        except EngineError as error:
            absent[name] = str(error)
            continue
        competitors.append(_competitor(name, folder, chromium.folder, engine))
    if competitors:
        competitors[-1] = _closing(competitors[-1], chromium)
    else:
        chromium.close()
    return competitors, absent


def _competitor(name: str, folder: Path, about: WebFolder, engine: browser.BrowserEngine) -> Competitor:
    ports = about.manifest.interface.inputs

    def run(arrays: Inputs) -> NDArray[np.generic]:
        return engine.run({port.name: array for port, array in zip(ports, arrays, strict=True)})[0]

    return Competitor(
        name=name,
        engine=str(engine.info),
        precision=about.manifest.precision,
        run=run,
        file=folder / about.artifact,
        manifest=about.manifest,
        computes=engine.info.precision,
        bytes=(folder / about.artifact).stat().st_size,
        takes_turns=partial(_timed, engine, about.manifest.interface),
        close=engine.close,
    )


def _closing(competitor: Competitor, chromium: browser.Browser) -> Competitor:
    """The last one to be closed ends the browser."""
    from dataclasses import replace

    return replace(competitor, close=chromium.close)


def _timed(engine: browser.BrowserEngine, interface: Interface, pool: Pool) -> timing.Timed:
    """Turns that the page takes and times itself."""
    engine.fill([_named(interface, arrays) for arrays in pool])

    def turn(first: int, least: float, wakes: bool) -> NDArray[np.float64]:
        shortest, longest = max(timing.TURN_SECONDS, least), max(timing.TURN_LONGEST, least)
        return np.array(engine.turn(first, timing.TURN_CALLS, shortest, longest, wakes))

    return timing.Timed(turn)


def _named(interface: Interface, arrays: Sequence[NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    return {port.name: array for port, array in zip(interface.inputs, arrays, strict=True)}
