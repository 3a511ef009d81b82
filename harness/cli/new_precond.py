"""`new-precond`: a working, installable package for a preconditioning of one's own."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
from importlib.resources import files
from pathlib import Path
from string import Template

from harness.errors import EXIT_DONE, ConfigError
from harness.registry import NAME, registry

NEXT = """\
wrote {folder}: {names}
  pip install --editable '{folder}[test]'
  python -m pytest {folder}
  python -m harness check {name}
  python -m harness run --matrix grids/quickstart.yaml --set name={name} \\
    --set 'axes.precond=[ctm, {name}]'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `new-precond`."""
    parser.add_argument("name", metavar="NAME", help="what grids will call it, e.g. my-precond")
    parser.add_argument(
        "--into", default=".", metavar="DIR", help="where to make the folder NAME (default: here)"
    )


def main(args: argparse.Namespace) -> int:
    """Write the folder NAME and say what to do next."""
    name, folder = args.name, Path(args.into) / args.name
    check_name(name)
    if folder.exists():
        raise ConfigError(f"new-precond: {folder} exists already; choose another name or --into")
    texts = render(name)
    try:
        folder.mkdir(parents=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"new-precond: --into {args.into} is not a folder") from None
    for file, text in texts.items():
        (folder / file).write_text(text)
    print(NEXT.format(folder=folder, names=", ".join(texts), name=name))
    return EXIT_DONE


def check_name(name: str) -> None:
    """Refuse names that could not be registered, imported or told apart.

    Raises:
        ConfigError: says which of these, and what to do.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"new-precond: {name!r} is no plugin name; use lower-case words joined by hyphens,"
            " e.g. my-precond"
        )
    if name in registry.names("precond"):
        raise ConfigError(f"new-precond: a precond is called {name!r} already; choose another name")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise ConfigError(
            f"new-precond: {module!r} already means something to Python; choose another name,"
            f" e.g. {name}-precond"
        )


def render(name: str) -> dict[str, str]:
    """The package's files by name, from harness/cli/template."""
    module = name.replace("-", "_")
    class_name = "".join(word.capitalize() for word in name.split("-")) + "Precond"
    texts = {}
    for source in sorted(files("harness.cli").joinpath("template").iterdir(), key=str):
        file = source.name.removesuffix(".in").replace("module.py", f"{module}.py")
        texts[file] = Template(source.read_text()).substitute(
            name=name, module=module, class_name=class_name
        )
    return texts
