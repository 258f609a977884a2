"""A module from a function of the user's: ``package.module:function`` or ``path/to/file.py:function``.

Calling a function runs its code, and importing a module runs the module's: this is for code that the user trusts.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from deploykit.errors import ExportError, UsageError
from deploykit.models.foreign.names import Reference


def find_factory(reference: Reference) -> Callable[..., Any]:
    """The function that makes the model.

    Raises:
        UsageError: no such module, file or function, or nothing that can be called.
        ExportError: the module's own code fails.
    """
    module = _load_file(Path(reference.source)) if reference.source.endswith(".py") else _import(reference.source)
    found: Any = module
    for part in reference.name.split("."):
        found = getattr(found, part, None)
        if found is None:
            callables = [n for n in dir(module) if callable(getattr(module, n)) and not n.startswith("_")]
            raise UsageError(
                f"{reference.source} has no {reference.name!r}",
                hint=f"it has {', '.join(callables[:10])}" if callables else "it has nothing that could be called",
            )
    if isinstance(found, nn.Module):
        return lambda: found
    if not callable(found):
        raise UsageError(f"{reference} is a {type(found).__name__}, expected a function that returns a torch module")
    return found  # type: ignore[no-any-return]


def call_factory(factory: Callable[..., Any], arguments: Mapping[str, Any], reference: Reference) -> nn.Module:
    """The model.

    Raises:
        UsageError: the function does not take the arguments.
        ExportError: it fails, or gives something that is no module.
    """
    try:
        model = factory(**arguments)
    except TypeError as error:
        raise UsageError(f"{reference} cannot be called with {dict(arguments)}: {error}", hint="see --kwargs") from error
    except Exception as error:  # whatever the user's code raises
        raise ExportError(f"{reference} fails: {type(error).__name__}: {error}", hint="see where with --debug") from error
    if not isinstance(model, nn.Module):
        raise ExportError(f"{reference} returns something of type {type(model).__name__}, expected a torch module")
    return model


def _import(name: str) -> ModuleType:
    # The current folder is where `python -m` would look too.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {name!r} here", hint="run deploykit where it is installed, or in its folder"
            ) from None
        raise ExportError(f"module {name} needs {error.name}, which is not installed") from error
    except Exception as error:  # whatever the module's code raises
        raise ExportError(f"module {name} fails: {type(error).__name__}: {error}", hint="see where with --debug") from error
    finally:
        sys.path.remove(here)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and pickles look their module up
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file's code raises
        raise ExportError(f"{path} fails: {type(error).__name__}: {error}", hint="see where with --debug") from error
    finally:
        sys.path.remove(folder)
        if before is not None:
            sys.modules[path.stem] = before
    return module
