"""Modules that are loaded when something of them is used, instead of when they are imported.

Half of what a Python program of this kind loads before it can serve, it does not use before it
ends: asyncio imports TLS and the inspection of source code, this package how to request URLs and
to walk directories. ``install`` has imports of such modules put off, whoever imports them.

That is for programs that own their process, not for libraries.
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
        # By asyncio: TLS, connecting to several addresses, and questions about functions.
        "asyncio.sslproto",
        "asyncio.staggered",
        "inspect",
        "ssl",
        # By whoever shows tracebacks or reads a child's output as text.
        "linecache",
        "locale",
        "textwrap",
        # By msgspec: schemas, other formats than JSON and MessagePack, and by uuid for it.
        "msgspec.inspect",
        "msgspec.toml",
        "msgspec.yaml",
        "platform",
        # By this package.
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
"""What is imported by much and used by little."""


class _LateModule(ModuleType):
    """Stands for a module until it is used, and then has what the module has."""

    def __getattr__(self, name: str) -> Any:
        """What the module has; special names tell how a module was loaded, and load nothing."""
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        spec = self.__spec__
        assert spec is not None
        assert isinstance(spec.loader, _LateLoader)
        return getattr(spec.loader.load(self), name)


class _LateLoader:
    """Makes the module that stands for another, and loads the other."""

    def __init__(self, name: str, names: set[str]) -> None:
        self._name = name
        self._names = names
        self._lock = threading.RLock()
        self._is_loading = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LateModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""

    def load(self, late: ModuleType) -> ModuleType:
        """Load the module as any other, once, whatever threads use it first."""
        with self._lock:
            if self._is_loading:  # and needed for that: there is a circle of imports
                return sys.modules[self._name]
            self._is_loading = True
            try:
                self._names.discard(self._name)
                if sys.modules.get(self._name) is late:
                    del sys.modules[self._name]
                module = import_module(self._name)
            finally:
                self._is_loading = False
            for name, value in vars(module).items():
                vars(late).setdefault(name, value)
            return module


class _LateFinder:
    """Finds some modules where the interpreter finds them, to be loaded late."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = set(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = _LateLoader(name, self._names)  # type: ignore[assignment]
        return spec


def install(names: Collection[str]) -> None:
    """Have modules loaded late; it does nothing to those that are loaded already."""
    sys.meta_path.insert(0, _LateFinder(names))


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Have imports of a module fail meanwhile, if it is not loaded already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def load_msgspec() -> None:
    """Load msgspec without typing_extensions and, where it is to be loaded late, platform.

    What msgspec would take from the first, the standard library has as well; it takes half as long
    again to load. Of the second, uuid in Python 3.11 wants the system's name alone.
    """
    import platform  # noqa: PLC0415

    vars(platform).setdefault("system", lambda: os.uname().sysname)
    with without("typing_extensions"):
        import msgspec  # noqa: F401, PLC0415
