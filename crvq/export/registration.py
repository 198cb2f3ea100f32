"""Make transformers know quantized folders as soon as both packages are imported, in either order.

`install` costs nothing: transformers is not imported. When it has been, or once it is, the
quantizer is registered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_WATCHED = "transformers.quantizers.auto"
"""The module of transformers that holds its table of quantizers; every model imports it."""


class _Watcher(MetaPathFinder):
    """Finds one module as everybody else would, and registers once it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's own spec, with a loader that registers afterwards."""
        if fullname != _WATCHED:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None
            if find is not None and not _is_watcher(finder):
                spec = find(fullname, path, target)
            if spec is not None:
                _register_after(spec)
                return spec
        return None


def install() -> None:
    """Register with transformers now if it is loaded, else as soon as it is."""
    if _is_loaded():
        register()
    elif not any(_is_watcher(finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def register() -> None:
    """Register the quantizer with transformers, which is imported; does nothing a second time."""
    from crvq.export.quantizer import register_quantizer

    register_quantizer()


def _is_watcher(finder: object) -> bool:
    # By name: a reloaded module has another class of that name.
    return type(finder).__name__ == _Watcher.__name__ and type(finder).__module__ == __name__


def _is_loaded() -> bool:
    module = sys.modules.get(_WATCHED)
    # While a module is being executed it is in sys.modules already, without its names.
    return module is not None and not getattr(module.__spec__, "_initializing", False)


def _register_after(spec: ModuleSpec) -> None:
    loader = spec.loader
    if loader is None:
        return
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        register()

    # On this one loader object, which loads nothing else.
    loader.exec_module = exec_module  # type: ignore[method-assign]
