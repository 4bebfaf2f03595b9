"""The documents: links resolve, tables are current, commands parse, and the Python in them runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ganedge.runtime import engines

ROOT = Path(__file__).parents[1]
OUTSIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/LOG.md", "benchmarks/SCHEMA.md")
PAGES = [*OUTSIDE, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
STATIONS = ("models", "train", "export", "runtime", "benchmarks")
OTHERS = {"curl", "python3", "source", "sudo"}
"""Programs in the documents that are not ours."""
EXECUTED = (
    "gan-train --list",
    "gan-train dcgan --data digits --out runs/",
    "gan-export --list",
    "gan-export runs/digits --format onnx",
    "gan-run sample generator.onnx -n 64 --seed 0",
    "gan-run interpolate generator.onnx",
    "gan-run info generator.onnx",
    "gan-run verify generator.onnx",
    "gan-run translate monet2photo.onnx paintings/",
)
"""How the lines begin that are cheap enough to run."""
TINY = {
    "steps=2000": "steps=4, size=16, width=8, latent=6, batch=16, device='cpu'",
    "batch=[1, 8]": "batch=[1], seconds=0.01, iterations=2, processes=0",
}
"""What makes the Python examples cheap: the numbers that are replaced."""
NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Tanh())

    def forward(self, images):
        return self.layers(images)
"""


def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(text(page)) if name == language]


def shell_lines(page: str) -> Iterator[list[str]]:
    """The words of each command line, without its comment."""
    for code in blocks(page, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    prose = FENCE.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(text("README.md").encode()) <= 9_000


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for link in LINK.findall(FENCE.sub("", text(page))):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page} links to {link}, which does not exist"
        if anchor:
            assert anchor in anchors(target), f"{page} links to {link}, and there is no such heading"


def test_option_tables_are_those_of_the_commands() -> None:
    tables = runpy.run_path(str(ROOT / "tests" / "option_tables.py"))
    page = tables["PAGE"].read_text("utf-8")
    assert page == tables["page"](page), "run make options"


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str) -> None:
    for words in shell_lines(page):
        _parse(words)


def _parse(words: list[str]) -> None:
    """Hand a line to the parser of its command, without running it."""
    name, *arguments = words
    if name.startswith("gan-"):
        _parse_ours(name, arguments)
    elif name == "torchrun":
        _parse_ours("gan-train", arguments[arguments.index("ganedge.train") + 1 :])
    elif name == "make":
        assert re.search(rf"^{arguments[0]}:", text("Makefile"), re.MULTILINE), f"make has no target {arguments[0]}"
        assert all(re.search(rf"^{word.split('=')[0]} \?=", text("Makefile"), re.MULTILINE) for word in arguments[1:])
    elif name == "pip":
        _check_extras(arguments)
    elif name == "python" and arguments[:2] == ["-m", "venv"]:
        return
    elif name == "python":
        assert (ROOT / Path(*arguments[1].removeprefix("ganedge.").split(".")).with_suffix(".py")).is_file()
        _parse_with(importlib.import_module(arguments[1]), arguments[2:])
    else:
        assert name in OTHERS, f"{name} is not known here"


def _parse_ours(name: str, arguments: list[str]) -> None:
    command = runpy.run_path(str(ROOT / "tests" / "option_tables.py"))["command"](name)
    known = getattr(command, "commands", {})
    if arguments and arguments[0] in known:
        known[arguments[0]].make_context(arguments[0], arguments[1:])
    elif "latency" in known and not arguments[0].startswith("-"):
        known["latency"].make_context("latency", arguments)
    else:
        command.make_context(name, arguments)


def _parse_with(module: Any, arguments: list[str]) -> None:
    import typer

    if hasattr(module, "build"):
        command = typer.main.get_command(module.build())
        known = getattr(command, "commands", {})
        first = known.get(arguments[0], command) if arguments else command
        first.make_context("study", arguments[1:] if first is not command else arguments)


def _check_extras(arguments: list[str]) -> None:
    """The extras that an installation line names exist."""
    for word in arguments:
        for extras in re.findall(r"ganedge\[([\w,]+)\]", word):
            assert set(extras.split(",")) <= _extras(), word


def test_every_extra_is_described() -> None:
    described = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text("docs/commands.md"), re.MULTILINE)))
    assert _extras() <= set(described)


def _extras() -> set[str]:
    declared = text("pyproject.toml").partition("optional-dependencies]")[2].partition("\n[")[0]
    return set(re.findall(r"^(\w+) = \[", declared, re.MULTILINE))


def test_the_documents_hold_the_commands_that_are_run() -> None:
    lines = {shlex.join(words) for page in PAGES for words in shell_lines(page)}
    for beginning in EXECUTED:
        assert any(line.startswith(beginning) for line in lines), beginning


@pytest.fixture(scope="module")
def image_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator that takes pictures of any size."""
    from ganedge.export import export

    folder = tmp_path_factory.mktemp("image")
    (folder / "net.py").write_text(NET)
    output = folder / "monet2photo.onnx"
    return export(f"{folder / 'net.py'}:Net", input="3xHxW", kind="image", size="dynamic", output=output).path


@pytest.fixture
def sandbox(tmp_path: Path, artifact: Path, image_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name: two artifacts and pictures."""
    shutil.copy(artifact, tmp_path / "generator.onnx")
    shutil.copy(f"{artifact}.proof.npz", tmp_path / "generator.onnx.proof.npz")
    monkeypatch.chdir(tmp_path)
    Path("paintings").mkdir()
    for picture in ("painting.jpg", "paintings/one.png"):
        Image.new("RGB", (40, 32), "orange").save(picture)
    shutil.copy(image_artifact, "monet2photo.onnx")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python") and page != "docs/scale.md"])
def test_python_runs(page: str, sandbox: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "example"}
    for code in blocks(page, "python"):
        if "class Generator" in code:
            Path("nets.py").write_text(code.partition("torch.save")[0])
        for number, tiny in TINY.items():
            code = code.replace(number, tiny)
        exec(compile(code, page, "exec"), namespace)  # noqa: S102 - the project's own documents


def test_python_for_ray_is_what_tests_run_or_needs_a_bucket() -> None:
    """The first block is executed by tests/runtime/test_scale.py."""
    _, pipeline = blocks("docs/scale.md", "python")
    assert "s3://" in pipeline
    compile(pipeline, "docs/scale.md", "exec")


def test_the_kubernetes_manifest_fits_together() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML: pip install 'ganedge[docs]'")
    deployment, service = yaml.safe_load_all(blocks("docs/scale.md", "yaml")[0])
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    assert container["readinessProbe"]["httpGet"]["port"] in ports
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in template["spec"]["volumes"]
    }
    assert f"--model-repository={container['volumeMounts'][0]['mountPath']}" in container["args"]


def test_the_tiny_numbers_stand_in_the_documents() -> None:
    code = "".join(code for page in PAGES for code in blocks(page, "python"))
    assert all(number in code for number in TINY)


def test_cheap_commands_run(sandbox: Path, command: Callable[..., Any]) -> None:
    lines = dict.fromkeys(shlex.join(words) for page in PAGES for words in shell_lines(page))
    for line in sorted(lines, key=lambda line: "gan-train" not in line):
        if not line.startswith(EXECUTED):
            continue
        words = shlex.split(line)
        if "--data" in words:
            words += ["--steps", "4", "--size", "16", "--width", "8", "--device", "cpu"]
        done = command(*words)
        assert done.code == 0, (line, done.err)


def test_the_site_builds(tmp_path: Path) -> None:
    if not engines.installed("mkdocs"):
        pytest.skip("needs MkDocs Material: pip install 'ganedge[docs]'")
    make = shutil.which("make")
    if not make:
        pytest.skip("needs make")
    subprocess.run([make, "--silent", "links"], cwd=ROOT, check=True)
    line = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "truncation" in (tmp_path / "site" / "reference" / "runtime" / "index.html").read_text("utf-8")


def examples() -> Iterator[tuple[str, str]]:
    """The Python of each module's docstring: the paragraphs that are code."""
    for station in STATIONS:
        for path in sorted((ROOT / station).rglob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
            code = "\n".join(part for part in re.split(r"\n\s*\n", docstring) if _is_python(part))
            if code:
                parts = path.relative_to(ROOT).with_suffix("").parts
                yield "ganedge." + ".".join(parts).removesuffix(".__init__"), inspect.cleandoc("\n" + code)


def _is_python(paragraph: str) -> bool:
    try:
        tree = ast.parse(inspect.cleandoc("\n" + paragraph))
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call | ast.ImportFrom | ast.Import) for node in ast.walk(tree))


@pytest.mark.parametrize(("module", "code"), [pytest.param(*one, id=one[0]) for one in examples()])
def test_docstring_examples_call_what_exists(module: str, code: str) -> None:
    """Imports resolve, and functions that the example names exist and take its arguments."""
    own = importlib.import_module(module)
    names: dict[str, Any] = dict(vars(own)) | {module.rpartition(".")[2]: own}
    tree = ast.parse(code)
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), module, "exec"), names)  # noqa: S102 - the project's own example
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = _resolve(node.func, names, assigned, module)
        if callable(function) and not any(isinstance(value, ast.Starred) for value in node.args):
            keywords = [word.arg for word in node.keywords if word.arg]
            try:
                inspect.signature(function).bind(*node.args, **dict.fromkeys(keywords))
            except ValueError:
                continue  # A builtin without a signature.
            except TypeError as error:
                raise AssertionError(f"{module}: {ast.unparse(node)}: {error}") from error


def _resolve(node: ast.expr, names: dict[str, Any], assigned: set[str], module: str) -> Any:
    """What a called name is; None where the example itself makes it."""
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, names, assigned, module)
        if not inspect.ismodule(owner):
            return None
        assert hasattr(owner, node.attr), f"{module}: {ast.unparse(node)} does not exist"
        return getattr(owner, node.attr)
    if not isinstance(node, ast.Name) or node.id in assigned:
        return None
    builtins = importlib.import_module("builtins")
    return names.get(node.id, getattr(builtins, node.id, None))
