"""The house rules that a machine can check: packages, imports, the documented tree, and what importing costs."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "benchmarks" / "studies"
"""What only maintainers run."""
STATIONS = ("models", "train", "export", "runtime", "benchmarks")
MAY_IMPORT = {
    "runtime": set(),
    "models": {"runtime"},
    "train": {"models", "runtime"},
    "export": {"models", "train", "runtime"},
    "benchmarks": {"models", "train", "export", "runtime"},
}
TORCH_FREE = (
    "export/artifact.py",
    "export/calibration.py",
    "export/conversion.py",
    "export/uint8_io.py",
    "export/from_onnx.py",
    "export/graph.py",
    "export/layers.py",
    "export/source_model.py",
    "export/parity.py",
    "runtime/inputs.py",
    "export/precision.py",
    "export/quantize.py",
    "export/rewrite.py",
    "export/sizes.py",
    "export/to_tensorrt.py",
)


def modules(station: str) -> list[Path]:
    return sorted((ROOT / station).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_package_is_in_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent for station in STATIONS for path in (ROOT / station).rglob("__init__.py")} - {STUDIES}
    assert set(listed) == {"ganedge." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert all((folder / "py.typed").is_file() for folder in folders)


@pytest.mark.parametrize("station", STATIONS)
def test_imports_follow_the_journey(station: str) -> None:
    for path in modules(station):
        others = {name.split(".")[1] for name in imports(path) if name.startswith("ganedge.")} - {station}
        assert others <= MAY_IMPORT[station], f"{path.relative_to(ROOT)} imports {others - MAY_IMPORT[station]}"


@pytest.mark.parametrize("file", [*TORCH_FREE, *(str(p.relative_to(ROOT)) for p in modules("runtime"))])
def test_the_device_side_never_names_torch(file: str) -> None:
    assert not {name for name in imports(ROOT / file) if name.split(".")[0] in ("torch", "torchvision")}


def test_the_loop_knows_no_variant_by_name() -> None:
    from ganedge.models import VARIANTS

    for path in modules("train"):
        if path.name == "builtin.py":
            continue  # A data set may be called like a variant.
        code = ast.parse(path.read_text("utf-8"))
        texts = {node.value for node in ast.walk(code) if isinstance(node, ast.Constant)}
        names = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
        for variant in VARIANTS:
            assert variant.name not in texts
            assert variant.__name__ not in names


def test_docs_show_the_tree_as_it_is() -> None:
    layout = runpy.run_path(str(ROOT / "tests" / "layout_tree.py"))
    text = layout["PAGE"].read_text("utf-8")
    assert text == layout["page"](text), "run make layout"


def test_importing_the_runtime_loads_numpy_and_the_standard_library_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import ganedge.runtime; ganedge.runtime.load; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = {name for name in done.stdout.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    assert foreign <= {"numpy", "ganedge", "cython_runtime"}, foreign  # The last is part of numpy 1.


def test_nothing_happens_at_import() -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    allowed = (ast.Import, ast.ImportFrom, *functions, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If, ast.Expr)
    for station in STATIONS:
        for path in modules(station):
            for node in ast.parse(path.read_text("utf-8")).body:
                where = f"{path.relative_to(ROOT)}:{node.lineno}"
                assert isinstance(node, allowed), where
                assert not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant), where


@pytest.mark.parametrize("station", ["train", "export"])
def test_a_missing_extra_is_one_line(station: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; from ganedge.{station}.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "x"], capture_output=True, text=True)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\d+ s: ", line)]  # Its progress, where slow.
    assert lines == [
        f"gan-{station}: gan-{station} needs torch, which is not installed: pip install 'ganedge[{station}]'"
    ]


def test_gan_run_loads_nothing_heavy_on_its_way(artifact: Path, tmp_path: Path) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print(*{name.split('.')[0] for name in sys.modules})); "
        "from ganedge.runtime.__main__ import main; main()"
    )
    arguments = ["sample", artifact, "-o", tmp_path / "x.png", "--engine", "onnxruntime"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"numpy", "onnxruntime", "PIL", "typer"} <= loaded
    assert not loaded & {"torch", "onnx", "openvino", "rich", "pydantic", "safetensors", "sklearn", "lightning_fabric"}


def _local_imports(path: Path) -> set[Path]:
    """The product files that a file imports: anywhere in it, lazily and for type checking too."""
    files: set[Path] = set()
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["ganedge", *parts[: len(parts) - node.level]] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{prefix}.{alias.name}" for alias in node.names] + ([prefix] if node.module else [])
        for name in names:
            target = ROOT.joinpath(*name.removeprefix("ganedge.").split(".")).with_suffix(".py")
            if name.startswith("ganedge.") and target.is_file():
                files.add(target)
    return files - {path}


def test_no_file_imports_itself_through_others() -> None:
    graph = {path: sorted(_local_imports(path)) for station in STATIONS for path in modules(station)}
    finished: set[Path] = set()

    def visit(path: Path, trail: list[Path]) -> None:
        if path in trail:
            cycle = [*trail[trail.index(path) :], path]
            raise AssertionError("import cycle: " + " → ".join(str(file.relative_to(ROOT)) for file in cycle))
        if path not in finished:
            for other in graph[path]:
                visit(other, [*trail, path])
            finished.add(path)

    for path in graph:
        visit(path, [])
