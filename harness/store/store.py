"""The results folder, which contains a folder for each run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from harness.errors import ConfigError, DamagedError
from harness.store.records import RunSpec
from harness.store.run import Run
from harness.store.schema import write_versioned

#: subfolders of a results folder; a published one has no artifacts
FOLDERS = ("runs", "artifacts", "tables")


class ResultStore:
    """A results folder: runs/, artifacts/, tables/."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def prepare(self, folders: Iterable[str] = FOLDERS) -> ResultStore:
        """Create the folder and check that it is writable; returns self.

        Raises:
            ConfigError: it is a file, or not writable.
        """
        try:
            for name in folders:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"results folder {self.root}: {error.strerror}; choose another with"
                " --set results=DIR"
            ) from None
        return self

    def existing(self) -> ResultStore:
        """Check that this is an existing results folder; returns self.

        Raises:
            ConfigError: there is no such folder, or it holds no runs.
        """
        if not (self.root / "runs").is_dir():
            inner = ", ".join(map(str, self.inner()))
            mend = f"give {inner}" if inner else "give the DIR of `run --set results=DIR`"
            raise ConfigError(f"{self.root} is no results folder (it has no runs/); {mend}")
        return self

    def inner(self) -> list[Path]:
        """Results folders inside this one, such as those of published grids."""
        return [path.parent for path in sorted(self.root.glob("*/runs")) if path.is_dir()]

    def run(self, run_id: str) -> Run:
        """The run with this id or unique prefix of an id.

        Raises:
            ConfigError: no run, or several runs, have this prefix.
        """
        runs = {run.run_id: run for run in self.runs()}
        if run_id in runs:
            return runs[run_id]
        matches = [run for name, run in runs.items() if run_id and name.startswith(run_id)]
        if len(matches) == 1:
            return matches[0]
        found = f"{len(matches)} runs begin" if matches else "no run begins"
        raise ConfigError(f"{found} with {run_id!r} in {self.root / 'runs'}; see `status`")

    def run_at(self, run_id: str) -> Run:
        """The run with this exact id, whose folder need not exist."""
        return Run(self.root / "runs" / run_id)

    def runs(self) -> list[Run]:
        """All runs with a spec, sorted by id."""
        folder = self.root / "runs"
        if not folder.is_dir():
            return []
        return [Run(path.parent) for path in sorted(folder.glob("*/spec.json"))]

    def open(self, spec: RunSpec) -> Run:
        """The run of a spec; creates its folder and writes spec.json if it is missing or damaged.

        Raises:
            ArtifactError: spec.json was written by a version that cannot be read.
        """
        run = self.run_at(spec.run_id)
        path = run.path / "spec.json"
        try:
            whole = path.exists() and bool(run.spec)
        except DamagedError:
            whole = False
        if not whole:
            write_versioned(path, spec.to_json())
        return run
