"""What a run folder says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from ganedge.train import run_folder


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("digits", "digits"),
        ("mnist:/home/somebody/secret/mnist", "mnist"),
        ("../data/faces/", "faces"),
        ("/mnt/x/list.csv", "list.csv"),
        ("mnist:b/c", "mnist"),
        ("x/a:b", "a:b"),
        ("faces/..", Path.cwd().name),
        ("C:\\people\\faces", "faces"),
    ],
)
def test_an_artifact_says_the_name_of_its_data_and_not_the_place(given: str, named: str) -> None:
    assert run_folder.name_of_data(given) == named
