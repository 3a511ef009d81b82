"""Find plugins: in the built-in folders, by entry point, `--plugin file.py` or `module:Class`.

A plugin is a class with a name. Finding one must be cheap and must never fail as a whole: a module
that cannot be imported is listed as broken, with its error, and hides nothing else. Plugin modules
keep `import torch` inside their methods, so that listing and planning stay fast.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, HarnessError, nearest

#: kind of plugin -> packages of this distribution whose modules hold plugins of that kind.
BUILT_IN: dict[str, tuple[str, ...]] = {
    "precond": ("preconds",),
    "teacher": ("teachers",),
    "objective": ("harness.objectives",),
    "backbone": ("harness.backbones.plugins",),
    "dataset": ("harness.data",),
    "extractor": ("harness.evaluate.extractors",),
    "metric": ("harness.evaluate.metrics",),
    "student": ("students",),
}
#: (kind, name common in the literature) -> hint in the error message; these are no aliases
ELSEWHERE = {
    ("metric", "fid"): "FID is metric 'frechet' with extractor 'inception'",
    ("metric", "fd"): "the Fréchet distance is metric 'frechet'",
    ("metric", "is"): "the Inception Score is metric 'inception-score'",
    ("metric", "prc"): "precision and recall are two metrics, 'precision' and 'recall'",
    ("metric", "mmd"): "MMD with a cubic kernel is metric 'kid'",
    ("extractor", "pixels"): "samples as they are, pixel for pixel, are extractor 'raw'",
    ("extractor", "inception-v3"): "the official Inception is extractor 'inception'",
    ("extractor", "clean"): "clean-fid's resizing is extractor 'inception-clean'",
    (
        "teacher",
        "ring",
    ): "the ring is teacher 'gmm', by default; 'gmm: {preset: random}' is another",
    ("precond", "cm"): "consistency models' own is precond 'edm'",
    ("objective", "cm"): "consistency distillation is objective 'cd', consistency training 'ect'",
    ("objective", "ict"): "improved consistency training is objective 'ect: {schedule: ict}'",
    ("objective", "mean-flow"): "MeanFlow is objective 'meanflow'",
    ("backbone", "ddpmpp"): "DDPM++ is backbone 'unet'",
    ("backbone", "ddpm++"): "DDPM++ is backbone 'unet'",
}
#: prefix of the module name of a file loaded by --plugin; the file's stem follows
FROM_FILE = "harness_plugin_"
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Broken:
    """A plugin source that could not be loaded: where it is, and the error."""

    kind: str
    origin: str
    error: str


class Registry:
    """Plugins of every kind, discovered on first use."""

    def __init__(self) -> None:
        self._classes: dict[str, dict[str, type[Any]]] = {kind: {} for kind in BUILT_IN}
        self._entry_points: dict[str, dict[str, EntryPoint]] = {kind: {} for kind in BUILT_IN}
        self._scanned: set[str] = set()
        #: kind -> what its plugins derive from; harness.api fills it in
        self.bases: dict[str, type[Any]] = {}
        self.broken: list[Broken] = []

    def add(self, kind: str, name: str, cls: type[Any]) -> None:
        """Register `cls` under `kind` and `name`.

        A class of `__main__` may be defined again, as in a notebook: the last definition counts.

        Raises:
            ConfigError: the name is malformed, or another class has it.
        """
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{kind} name {name!r} in {origin(cls)}: use lower-case words joined by hyphens"
            )
        if not is_built_in(cls):
            self._scan(kind)  # what is built in comes first
        known = self._classes[kind].get(name)
        again = known is not None and known.__module__ == cls.__module__ == "__main__"
        if known is not None and not again and origin(known) != origin(cls):
            raise ConfigError(
                f"two {kind} plugins are called {name!r}: {origin(known)} and {origin(cls)};"
                " rename one"
            )
        cls.name = name
        self._classes[kind][name] = cls

    def get(self, kind: str, name: str) -> type[Any]:
        """Return the class registered under `name`, importing its entry point if need be.

        A name `module:Class` is imported as it stands, which runs that module's code.

        Raises:
            ConfigError: no such plugin (with the nearest name), or the plugin is broken.
        """
        if ":" in name:
            return self._import(kind, name)
        self._scan(kind)
        if name not in self._classes[kind] and name in self._entry_points[kind]:
            self._load_entry_point(kind, self._entry_points[kind][name])
        if name in self._classes[kind]:
            return self._classes[kind][name]
        for broken in self.broken:
            if broken.kind == kind and broken.origin.endswith((f" {name}", f"/{name}.py")):
                raise ConfigError(f"{kind} {name!r} is broken: {broken.origin}: {broken.error}")
        if hint := ELSEWHERE.get((kind, name.lower())):
            raise ConfigError(f"no {kind} is called {name!r}: {hint}")
        near = nearest(name, self.names(kind))
        own = "" if "did you mean" in near else "; one of a file of yours needs --plugin FILE.py"
        raise ConfigError(f"no {kind} is called {name!r}{near}{own}")

    def _import(self, kind: str, name: str) -> type[Any]:
        module, _, attribute = name.partition(":")
        try:
            cls: Any = getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise ConfigError(
                f"{kind} {name!r} cannot be imported ({_one_line(error)}); write it as"
                " package.module:Class, with the package installed or on PYTHONPATH"
            ) from error
        base = self.bases.get(kind, object)
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise ConfigError(f"{kind} {name!r} is not a subclass of harness.api.{base.__name__}")
        found: type[Any] = cls
        found.name = found.name or name
        return found

    def names(self, kind: str) -> list[str]:
        """All names of a kind, sorted, including entry points that are not imported yet."""
        self._scan(kind)
        return sorted({*self._classes[kind], *self._entry_points[kind]})

    def load_file(self, path: str | Path) -> None:
        """Import a Python file given with `--plugin`. This runs the file's code.

        Raises:
            ConfigError: the file is missing, does not import, or takes the name of a built-in
                plugin, whose run ids it would share.
        """
        path = Path(path).expanduser().resolve()
        if not path.is_file():
            raise ConfigError(f"--plugin {path}: no such file")
        name = f"{FROM_FILE}{path.stem}"
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
            return
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"--plugin {path}: not a Python file (expected a name ending in .py)")
        for kind in BUILT_IN:  # first come, first named
            self._scan(kind)
        before = self._all()
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            what = str(error) if isinstance(error, ConfigError) else _one_line(error)
            raise ConfigError(f"--plugin {path}: {what}") from error
        if self._all() == before:
            del sys.modules[name]
            kinds = ", ".join(f"@register_{kind}" for kind in BUILT_IN)
            raise ConfigError(
                f"--plugin {path}: it registers no plugin; put a decorator of harness.api over a"
                f' class, e.g. @register_precond("{path.stem}") (there are {kinds})'
            )

    def _all(self) -> set[type[Any]]:
        return {cls for classes in self._classes.values() for cls in classes.values()}

    def blamed(self, error: BaseException) -> str:
        """The innermost frame of a traceback in a plugin that is not built in.

        Returned as `, in FILE:LINE (KIND NAME)`, to be appended to a message; empty if no such
        plugin is in the traceback.
        """
        files = {
            _source_file(cls): f"{kind} {name!r}"
            for kind, classes in self._classes.items()
            for name, cls in classes.items()
            if not is_built_in(cls)
        }
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if frame.filename in files:
                return f", in {frame.filename}:{frame.lineno} ({files[frame.filename]})"
        return ""

    def _scan(self, kind: str) -> None:
        if kind not in BUILT_IN:
            raise ConfigError(f"there is no plugin kind {kind!r}{nearest(kind, BUILT_IN)}")
        if kind in self._scanned:
            return
        self._scanned.add(kind)
        for package_name in BUILT_IN[kind]:
            package = importlib.import_module(package_name)
            for module in pkgutil.iter_modules(package.__path__):
                if module.ispkg or module.name.startswith("_"):
                    continue  # helpers live in sub-packages, which nobody imports while listing
                full = f"{package_name}.{module.name}"
                where = f"{package.__path__[0]}/{module.name}.py"
                self._try(kind, where, functools.partial(importlib.import_module, full))
        for point in _installed().select(group=f"harness.{kind}s"):
            if point.name in self._classes[kind]:
                mine = origin(self._classes[kind][point.name])
                self.broken.append(
                    Broken(kind, f"entry point {point.name}", f"{mine} has that name: it is kept")
                )
            else:
                self._entry_points[kind][point.name] = point

    def _load_entry_point(self, kind: str, point: EntryPoint) -> None:
        def load() -> None:
            cls = point.load()
            if point.name not in self._classes[kind]:
                self.add(kind, point.name, cls)

        self._try(kind, f"entry point {point.name}", load)

    def _try(self, kind: str, where: str, load: Callable[[], Any]) -> None:
        try:
            load()
        except Exception as error:
            self.broken.append(Broken(kind, where, _one_line(error)))


@functools.cache
def _installed() -> Any:
    """All entry points: finding them reads the metadata of every installed package."""
    return entry_points()


def origin(cls: type[Any]) -> str:
    """Where a class was written, as `file:line`."""
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return f"{cls.__module__}.{cls.__qualname__}"


def _source_file(cls: type[Any]) -> str | None:
    """The file that a class was written in; None where there is none, as in a notebook."""
    try:
        return inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return None


def place(cls: type[Any], error: BaseException | None = None, method: str = "") -> str:
    """`file:line` of the innermost frame of `error` in a plugin's file, or of one of its methods.

    That of the class, if the traceback does not pass its file or the method is defined elsewhere.
    """
    source = _source_file(cls)
    if source is None:
        return origin(cls)
    if error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == source]
        if lines:
            return f"{source}:{lines[-1]}"
    code = getattr(getattr(cls, method, None), "__code__", None)
    if code is not None and code.co_filename == source:
        return f"{source}:{code.co_firstlineno}"
    return origin(cls)


@contextlib.contextmanager
def blaming(kind: str, cls: type[Any], method: str = "") -> Iterator[None]:
    """Turn exceptions of plugin code into a `ConfigError` that names the plugin, file and line.

    A `HarnessError` passes unchanged.

    Raises:
        ConfigError: the code in the `with` block raised any other exception.
    """
    try:
        yield
    except HarnessError:
        raise
    except Exception as error:
        where = place(cls, error, method)
        raise ConfigError(f"{kind} {cls.name!r} ({where}): {_one_line(error)}") from error


def plugin_file(cls: type[Any]) -> str | None:
    """The file from which --plugin loaded this class; None if it was not loaded that way."""
    module = sys.modules.get(cls.__module__)
    if module is None or not cls.__module__.startswith(FROM_FILE):
        return None
    return getattr(module, "__file__", None)


def own_source(cls: type[Any]) -> str | None:
    """Digest of the source file of a plugin that is not built in; None for a built-in one.

    Built-in plugins are identified by the commit of the harness.
    """
    path = own_file(cls)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path else None
    except OSError:
        return None


def own_file(cls: type[Any]) -> Path | None:
    """Source file of a plugin; None if it is built in or was defined interactively."""
    if is_built_in(cls):
        return None
    try:
        path = inspect.getsourcefile(cls)
    except (OSError, TypeError):
        return None
    return Path(path) if path else None


def is_built_in(cls: type[Any]) -> bool:
    """Whether a plugin is the harness's own."""
    packages = (package for packages in BUILT_IN.values() for package in packages)
    return cls.__module__.startswith(tuple(f"{package}." for package in packages))


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


registry = Registry()
