"""Lazy imports: modules that are loaded at their first use instead of at their import.

asyncio and msgspec import modules that most runs of a program never use, such as TLS and the
inspection of source code. Without lazy imports the server takes 1.6 times as long to start (107
instead of 67 ms of processor time, of which the modules of this package are 14 ms and those of the
standard library and msgspec 22 ms, no single one more than 7 ms).

For programs only, never for libraries: ``install`` affects the whole process. ``LazyLoader`` of the
standard library is not used because, before Python 3.12.3, threads can see a module half loaded.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from importlib.machinery import ModuleSpec

SELDOM_USED: Final = frozenset(
    (
        # Imported by asyncio: TLS, connecting to several addresses, inspection of functions.
        "asyncio.sslproto",
        "asyncio.staggered",
        "inspect",
        "ssl",
        # Imported for tracebacks and for a child's output as text.
        "linecache",
        "locale",
        "textwrap",
        # Imported by msgspec: schemas, other formats than JSON and MessagePack; by uuid for it.
        "msgspec.inspect",
        "msgspec.toml",
        "msgspec.yaml",
        "platform",
        # Imported by this package.
        "base64",
        "exec_server.engine.http.url",
        "hashlib",
        "ipaddress",
        "json",
        "shutil",
        "sysconfig",
        "urllib.parse",
    )
)
"""Modules that are imported by many others and used by few."""

_pending: Final[set[str]] = set()
"""Names of lazy modules that are not loaded yet."""


class _LazyModule(ModuleType):
    """Placeholder of a module; takes over the module's attributes once it is loaded."""

    def __getattr__(self, name: str) -> Any:
        """Load the module, unless for a special name, which describes the import alone."""
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        spec = self.__spec__
        assert spec is not None
        assert isinstance(spec.loader, _LazyLoader)
        return getattr(spec.loader.load(self), name)


class _LazyLoader:
    """Loader that creates a placeholder first and the module at its first use."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._is_loading = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LazyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing yet."""

    def load(self, placeholder: ModuleType) -> ModuleType:
        """Load the module once, whichever threads use it first."""
        with self._lock:
            if self._is_loading:  # an import circle: the module uses itself while it loads
                return sys.modules[self._name]
            self._is_loading = True
            try:
                _pending.discard(self._name)
                if sys.modules.get(self._name) is placeholder:
                    del sys.modules[self._name]
                module = import_module(self._name)
            finally:
                self._is_loading = False
            for name, value in vars(module).items():
                vars(placeholder).setdefault(name, value)
            return module


class _LazyFinder:
    """Finder of lazy modules, which are where the interpreter finds them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _pending:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _LazyLoader(name)  # type: ignore[assignment]
        return spec


def install(names: Collection[str]) -> None:
    """Make modules lazy; modules that are loaded already stay as they are."""
    _pending.update(names)
    sys.meta_path.insert(0, _LazyFinder())


def pending(package: str) -> list[str]:
    """Return the names of a package's lazy modules that are not loaded yet."""
    return sorted(name for name in _pending if name.startswith(f"{package}."))


def load(name: str) -> None:
    """Load a module now, lazy or not."""
    placeholder = import_module(name)
    spec = placeholder.__spec__
    if spec is not None and isinstance(spec.loader, _LazyLoader):
        spec.loader.load(placeholder)


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Make imports of a module fail meanwhile, if it is not loaded already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def load_msgspec() -> None:
    """Load msgspec without typing_extensions and, if it is lazy, without platform.

    The standard library provides the names that msgspec takes from typing_extensions, which is
    slow to load. uuid of Python 3.11 uses ``platform.system`` alone.
    """
    import platform  # noqa: PLC0415

    vars(platform).setdefault("system", lambda: os.uname().sysname)
    with without("typing_extensions"):
        import msgspec  # noqa: F401, PLC0415
