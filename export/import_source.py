"""Import the Python file or package that a network is in, and make the network.

    network = construct("nets.py:Generator", {"width": 64})

Naming a module is trusting it: its file is executed. A script or notebook that would train is not: of it, only the
statements run that the network needs.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ganedge.export.arguments import usable
from ganedge.export.code_listing import networks_in, training_line
from ganedge.export.on_cpu import is_about_cuda, on_cpu
from ganedge.export.script_parts import ScriptPart, needed_part
from ganedge.runtime.errors import GanEdgeError, UsageError, one_line

NO_OPERATORS = "its compiled operators could not be built here: its own PyTorch code computes in their place"


@dataclass(frozen=True)
class Imported:
    """What a source names."""

    value: Any
    module: ModuleType
    """The Python module that defines it."""
    notes: tuple[str, ...] = ()
    """What the user should know of how it was imported."""


def construct(source: str, kwargs: Mapping[str, Any] | None) -> nn.Module:
    """Import and make a module.

    Args:
        source: `FILE.py:NAME`, `NOTEBOOK.ipynb:NAME` or `package.module:NAME` of a class, a function or an instance.
        kwargs: Arguments of the class or function.

    Raises:
        UsageError: no such file or name, or it is no module.
        GanEdgeError: its code raises an error; the message names the line.
    """
    return make(source, lookup(source).value, kwargs)


def make(source: str, factory: Any, kwargs: Mapping[str, Any] | None) -> nn.Module:
    """Call a class or function for its module; an instance is returned as it is. Errors as `construct`."""
    if isinstance(factory, nn.Module):
        if kwargs:
            raise UsageError(f"{source} is a module that exists already: it takes no --kwargs")
        return factory
    try:
        with on_cpu():
            network = factory(**usable(kwargs or {}))
    except UsageError:
        raise
    except Exception as error:
        raise GanEdgeError(_blame(source, error)) from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"{source} gives {type(network).__name__}, not a torch.nn.Module")
    return network


def lookup(source: str) -> Imported:
    """Import the file, notebook or package of a source, and return what its name stands for. Errors as `construct`."""
    path, _, name = source.rpartition(":")
    try:
        with on_cpu():
            module, notes = _import(path, name)
    except GanEdgeError:
        raise
    except Exception as error:
        raise GanEdgeError(_blame(source, error)) from error
    if hasattr(module, name):
        return Imported(getattr(module, name), module, notes)
    own = networks_in(Path(module.__file__)) if module.__file__ else []
    raise _no_such_name(path, name, own or _networks(module))


def _networks(module: ModuleType) -> list[str]:
    return [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]


def _no_such_name(path: str, name: str, names: Sequence[str]) -> UsageError:
    near = difflib.get_close_matches(name, names, 1, 0.7)
    hint = f"did you mean {path}:{near[0]}? " if near else ""
    shown = f" (it defines {', '.join(names[:6])})" if names else ""
    return UsageError(f"{path} has no {name}{shown}: {hint}give {path}:NAME of a class, a function or an instance")


def _import(name: str, wanted: str) -> tuple[ModuleType, tuple[str, ...]]:
    """Import a package, a file, or the part of a file or notebook that a name needs, which the notes say."""
    path = Path(name)
    if path.suffix not in (".py", ".ipynb"):
        sys.path.insert(0, str(Path.cwd()))
        with _undisturbed(name):
            return importlib.import_module(name), ()
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a Python file with the generator in it")
    path = path.resolve()
    sys.path.insert(0, str(path.parent))  # So that it finds the modules beside it.

    # What would train, or is a notebook, is not run as a whole.
    line = training_line(path)
    if path.suffix == ".ipynb" or line is not None:
        why = "is a notebook" if path.suffix == ".ipynb" else f"trains when it is imported (line {line})"
        module_and_notes = _import_part(path, name, wanted, why)
        if module_and_notes is None:
            raise _no_such_name(name, wanted, networks_in(path))
        return module_and_notes

    # What cannot be imported because of statements that the network does not need is tried without them.
    try:
        with _undisturbed(name):
            return _import_file(path, None)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, GanEdgeError) and error.__cause__ else error
        why = f"cannot be imported as a whole ({type(cause).__name__}: {one_line(cause)})"
        try:
            module_and_notes = _import_part(path, name, wanted, why)
        except Exception:  # noqa: BLE001 - a foreign script may raise anything
            raise error from None
        if module_and_notes is None:
            raise
        return module_and_notes


def _import_part(path: Path, name: str, wanted: str, why: str) -> tuple[ModuleType, tuple[str, ...]] | None:
    """Run the statements of a file that a name needs, which the notes say; None where it does not define the name."""
    part = needed_part(path, wanted)
    if part is None:
        return None
    with _undisturbed(name):
        module, notes = _import_file(path, part)
    others = part.count - 1
    needs = f" and the {others} statements that it needs" if others > 1 else " and the statement that it needs" * others
    return module, (f"{path.name} {why}: of it, {wanted}{needs} ran by themselves", *notes)


@contextlib.contextmanager
def _undisturbed(name: str) -> Iterator[None]:
    """Import a script without our command line, and without waiting for a keyboard."""
    arguments, keyboard, printed = sys.argv, sys.stdin, io.StringIO()
    try:
        with open(os.devnull, encoding="utf-8") as sys.stdin, contextlib.redirect_stderr(printed):  # noqa: PTH123
            sys.argv = [name]
            yield
    except (SystemExit, EOFError) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(name)]
        line = f", line {frames[-1].lineno}" if frames else ""
        reason = printed.getvalue().strip().splitlines()[-1:] or [type(error).__name__]
        raise GanEdgeError(
            f"{name} cannot be imported: it reads arguments or the keyboard, or ends ({reason[0]}{line}): put that "
            'under if __name__ == "__main__":'
        ) from error
    else:
        sys.stderr.write(printed.getvalue())
    finally:
        sys.argv, sys.stdin = arguments, keyboard


def _import_file(path: Path, part: ScriptPart | None) -> tuple[ModuleType, tuple[str, ...]]:
    """Import a file, or some statements of it; without the operators that it compiles, where that fails."""
    try:
        return _import_from_root(path, part), ()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if not any(frame.filename.endswith("cpp_extension.py") for frame in frames):
            raise
        with _no_compiled_operators():
            return _import_from_root(path, part), (NO_OPERATORS,)


@contextlib.contextmanager
def _no_compiled_operators() -> Iterator[None]:
    """Let `torch.utils.cpp_extension.load` return nothing usable: StyleGAN2 has CPU code beside its operators."""
    from torch.utils import cpp_extension

    names = ("load", "load_inline")
    originals = [getattr(cpp_extension, name) for name in names]
    for name in names:
        setattr(cpp_extension, name, lambda *_args, **_options: _NoOperators())
    try:
        yield
    finally:
        for name, original in zip(names, originals, strict=True):
            setattr(cpp_extension, name, original)


class _NoOperators:
    """Replaces a module of compiled operators."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} is a compiled operator, which could not be built on this machine")


def _import_from_root(path: Path, part: ScriptPart | None) -> ModuleType:
    """Import a file, or the given statements of it, from where its own imports are found."""
    try:
        return _execute(path, part)
    except ImportError as error:
        hides_package = (error.name or "").startswith(f"{path.stem}.")  # nets/nets.py imports nets.layers.
        if ("relative import" in str(error) or hides_package) and part is None:
            return _import_in_package(path)
        root = _root_with(path, (error.name or "").partition(".")[0])
        if root is None:
            raise
        sys.path.insert(0, str(root))
        for package in [key for key in sys.modules if key.partition(".")[0] == (error.name or "").partition(".")[0]]:
            del sys.modules[package]  # Another package of that name was found first.
        return _execute(path, part)


def _execute(path: Path, part: ScriptPart | None) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        if part is None:
            loader.exec_module(module)
        else:
            exec(part.code, vars(module))  # noqa: S102
    except BaseException:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise
    return module


def _root_with(path: Path, package: str) -> Path | None:
    """Find the folder above a file from which a package is imported: the root of its repository."""
    for folder in path.parents[1:6]:
        if package and ((folder / package).is_dir() or (folder / f"{package}.py").is_file()):
            return folder
    return None


def _import_in_package(path: Path) -> ModuleType:
    """Import a file with relative imports as part of the package that its folders form."""
    folder, name = path.parent.parent, f"{path.parent.name}.{path.stem}"
    while (folder / "__init__.py").is_file():
        folder, name = folder.parent, f"{folder.name}.{name}"
    sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def _blame(source: str, error: Exception) -> str:
    """Say in one line what a module's code raised, and where."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<")
    ]
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    hint = ""
    if isinstance(error, TypeError):
        hint = "; arguments are given as --kwargs '{\"name\": value}'"
    elif isinstance(error, ModuleNotFoundError) and source.startswith(str(error.name)):
        return f"{source}: no module {error.name} here: run this in the folder that holds it, or give FILE.py:NAME"
    elif isinstance(error, ModuleNotFoundError):
        return (
            f"{source} needs the Python module {error.name}{where.replace(' at', ', imported at')}, which is not here: "
            "install the package that brings it, or run this in the folder of the repository that holds it"
        )
    elif is_about_cuda(str(error)):
        hint = "; this machine has no GPU: remove what needs one, such as compiled operators"
    return f"{source} cannot be made: {type(error).__name__}: {one_line(error)}{where}{hint}"
