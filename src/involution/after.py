"""Importing, or doing something when another package is imported, as late as possible."""

from __future__ import annotations

import sys
from importlib.util import find_spec

# this is imported with the package: the standard library's own imports would take longer than all else
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class _After:
    def __init__(self, name: str, act: Callable[[ModuleType], object]) -> None:
        self.name, self.act = name, act

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            self.act(module)

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


def on_demand(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are imported when one is asked for.

    Args:
        package: Its name.
        places: Name -> the module where it is.
    """

    def find(name: str) -> Any:
        from importlib import import_module

        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(places[name]), name)

    return find


def after_import(name: str, act: Callable[[ModuleType], object]) -> None:
    """Call a function when a module is imported: at once if it is already.

    Args:
        name: Of the module.
        act: Is given the module.
    """
    # a name that can't be imported may stand there with None
    if sys.modules.get(name) is not None:
        act(sys.modules[name])
    else:
        sys.meta_path.insert(0, _After(name, act))
