"""Students that transformers' Auto classes know, without an import of torch or transformers.

transformers asks its `CONFIG_MAPPING` for a student's config class before all else. Until then a stand-in is there,
which makes and registers the classes (`students.classes`) when it is asked for something.
To register them as soon as transformers is imported would not do: its modules import one another half-made (in the
middle of `modeling_utils`, `quantizers` imports the mapping), and a student's module would need them whole.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from dynackd.families.table import FAMILIES

MODEL_TYPE_PREFIX = "dynackd-"
MAPPING = "transformers.models.auto.configuration_auto"


class _StandIn:
    """Stands in `CONFIG_MAPPING` for a student's config class, and becomes it when it is asked for anything."""

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type

    def _class(self) -> Any:
        importlib.import_module("dynackd.students.classes").register(self.model_type.removeprefix(MODEL_TYPE_PREFIX))
        found = sys.modules[MAPPING].CONFIG_MAPPING[self.model_type]
        if found is self:
            raise ImportError(f"no student of the model type {self.model_type!r} is registered")
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__name__":  # what pickle and copy look for
            raise AttributeError(name)
        return getattr(self._class(), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._class()(*args, **options)


class _AtImport(MetaPathFinder):
    """Registers the stand-ins once the module with transformers' mapping has been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != MAPPING:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _register(module: Any) -> None:
    for name in FAMILIES:
        model_type = MODEL_TYPE_PREFIX + name
        if model_type not in module.CONFIG_MAPPING:
            module.CONFIG_MAPPING.register(model_type, _StandIn(model_type))


def register() -> None:
    """Make students known to transformers' Auto classes, at once or as soon as those are imported."""
    if MAPPING in sys.modules:
        _register(sys.modules[MAPPING])
    else:
        sys.meta_path.insert(0, _AtImport())
