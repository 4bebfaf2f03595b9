"""What the commands print for errors."""

from __future__ import annotations

import pytest
import typer

from ganedge.runtime.cli import terminal


@pytest.mark.parametrize(
    ("module", "package"), [("google", "protobuf"), ("google.protobuf", "protobuf"), ("torch.nn", "torch")]
)
def test_a_missing_module_is_named_as_pip_knows_it(
    module: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def build() -> typer.Typer:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    with pytest.raises(SystemExit) as stopped:
        terminal.run(build, "gan-export", "export")
    assert stopped.value.code == 1
    line = f"gan-export: gan-export needs {package}, which is not installed: pip install 'ganedge[export]'\n"
    assert capsys.readouterr().err == line
