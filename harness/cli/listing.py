"""`list`: names, descriptions and parameters of all plugins."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from harness.cli import add_plugin_argument
from harness.errors import EXIT_DONE, ConfigError, nearest
from harness.registry import BUILT_IN, registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `list`."""
    kinds = ", ".join(BUILT_IN)
    parser.add_argument("kind", nargs="?", help=f"one kind only, in either number: {kinds}")
    add_plugin_argument(parser)


def main(args: argparse.Namespace) -> int:
    """Print a table per kind; plugins that cannot be loaded are listed as broken."""
    asked = args.kind and args.kind.removesuffix("s")
    if asked and asked not in BUILT_IN:
        raise ConfigError(f"list: there is no plugin kind {args.kind!r}{nearest(asked, BUILT_IN)}")
    for kind in [asked] if asked else BUILT_IN:
        rows = []
        for name in registry.names(kind):
            try:
                cls = registry.get(kind, name)
            except Exception as error:
                rows.append([name, "broken", str(error)])
                continue
            summary = (cls.__doc__ or "").strip().splitlines()
            fields = cls.Params.model_fields.items()
            params = ", ".join(
                f"{key} (needed)"
                if field.is_required()
                else f"{key}={field.get_default(call_default_factory=True, validated_data={})!r}"
                for key, field in fields
            )
            rows.append([name, summary[0] if summary else "", params])
        print(
            tabulate(
                rows,
                headers=[f"{kind}s", "what", "parameters"],
                maxcolwidths=[None, 60, 50],
            )
        )
        for broken in registry.broken:
            if broken.kind == kind:
                print(f"broken: {broken.origin}: {broken.error}")
        print()
    return EXIT_DONE
