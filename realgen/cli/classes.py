"""From a ``class_path`` to the class, and to the nearest name when there is none."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from realgen.checks import nearest, nearest_name
from realgen.cli import ConfigError

CLASSES = {
    "realgen.judges.Patience": "realgen.remote_calls.RetrySettings",
    "realgen.modules.DiffusionGRPO": "realgen.modules.GRPOModule",
    "realgen.modules.JointGRPO": "realgen.modules.JointGRPOModule",
    "realgen.modules.PromptGRPO": "realgen.modules.GRPOModule",
    "realgen.nano.detector_folders.NanoFolders": "experiments.nano.detector_folders.NanoFolders",
    "realgen.strategies.FSDP1": "realgen.strategies.FSDP2",
    "realgen.serving.Connection": "realgen.serving.ConnectionSettings",
}
"""Old import paths of components with their new ones; for messages only, an old name does not work."""
KEYS = {"OpenAIJudge.patience": "retry"}
"""Arguments, likewise, behind the name of the class."""


def find_class(path: str, base: type) -> Any:
    """Import a ``class_path``, or take an imported subclass of ``base`` by bare name; ConfigError says what is near."""
    if (new := new_class(path)) is not None:
        raise ConfigError(f"{path} is now {new}.")
    module_name, _, name = path.rpartition(".")
    if not module_name:
        known = {cls.__name__: cls for cls in _subclasses(base)}
        if name not in known:
            raise ConfigError(f"no {base.__name__} is called {name!r}; give its import path. {nearest(name, known)}")
        return known[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(f"cannot import {path}: {error}.") from error
        raise ConfigError(f"there is no module {missing}. {_nearest_module(missing)}".rstrip()) from error
    except Exception as error:  # a user's own module may raise anything
        raise ConfigError(f"cannot import {path}: {type(error).__name__}: {error}.") from error
    found = getattr(module, name, None)
    if found is None:
        names = candidates(module, base)
        raise ConfigError(f"there is no {path}. {nearest(name, names, prefix=f'{module_name}.')}".rstrip())
    return found


def new_class(path: str) -> str | None:
    """Return the new import path of a class, also by its bare name or its module's; None if the old one is unknown."""
    module, _, name = path.rpartition(".")
    for old, new in CLASSES.items():
        package, _, old_name = old.rpartition(".")
        if name == old_name and (not module or f"{module}.".startswith(f"{package}.")):
            return new
    return None


def check_class(cls: Any, base: type) -> None:
    """Raise ConfigError for a class that is abstract or no ``base``, and name some that are; functions pass."""
    if not inspect.isclass(cls) or _fits(cls, base):
        return
    trouble = "is abstract" if issubclass(cls, base) else f"is no {base.__name__}"
    raise ConfigError(f"{cls.__name__} {trouble}. {choices(base)}".rstrip())


def choices(base: type) -> str:
    """Return the sentence that lists the components of a kind in its own package; empty if there are none."""
    module = importlib.import_module(base.__module__)
    package = importlib.import_module(base.__module__.rpartition(".")[0] or base.__module__)
    home = package if candidates(package, base) else module
    return nearest("", candidates(home, base), prefix=f"{home.__name__}.")


def candidates(module: ModuleType, base: type) -> list[str]:
    """Return the names of the classes in a module that derive from ``base`` and are not abstract."""
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    found: dict[str, Any] = {name: getattr(module, name, None) for name in names}
    return [name for name, cls in found.items() if _fits(cls, base)]


def _fits(cls: Any, base: type) -> bool:
    return inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)


def _subclasses(base: type) -> Iterator[type]:
    yield base
    derived: list[type] = type.__subclasses__(base)
    for cls in derived:
        yield from _subclasses(cls)


def _nearest_module(missing: str) -> str:
    parent, _, name = missing.rpartition(".")
    if not parent:
        near = nearest_name(name, ["realgen", "lightning", "torch"])
        yours = f"To use one of your own, name the folder that holds it: PYTHONPATH=FOLDER_OF_{name.upper()}"
        return f"Did you mean {near}?" if near else yours
    siblings = [
        module.name for module in pkgutil.iter_modules(getattr(importlib.import_module(parent), "__path__", []))
    ]
    return nearest(name, siblings, prefix=f"{parent}.")
