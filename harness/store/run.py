"""One run's folder: plain files, readable without the harness."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import SoftFileLease

from harness.errors import ArtifactError, DamagedError
from harness.home import told_without_home, with_home
from harness.store.files import (
    Fields,
    append_line,
    is_torn,
    read_lines,
    read_record,
    tidy,
    trim,
    write_json,
)
from harness.store.lease import lease, taken
from harness.store.records import SPEC, EvalRow, Measure, Request, RunSpec, State
from harness.store.schema import read_versioned

#: fields that are read of a run's files besides spec.json and eval.jsonl
STATUS: Fields = {
    **dict.fromkeys(("state", "reason", "phase", "detail"), str),
    **dict.fromkeys(("step", "attempts"), int),
}
STATUS |= {"updated": (int, float)}
ORIGIN: Fields = {"costs": dict, "plugins": dict, "packages": dict, "hardware": str, "date": str}
FAILURE: Fields = {"state": str, "reason": str, "cause": str, "time": (int, float)}
ANEW = "run the grid again: it is written anew"


def average_name(rate: float) -> str:
    """Name of an average of the weights in a checkpoint."""
    return f"average-{rate}"


def without_average(folder: Path, rates: Iterable[float]) -> str:
    """The error message for averages that a run did not keep."""
    told = ", ".join(map(str, rates))
    return (
        f"run {folder.name} was trained without an EMA of rate {told}, and an average cannot be"
        f" made afterwards: leave it out of train.eval_ema, or move {folder} away, and the same"
        " command trains that run again from step 0 and keeps it"
    )


class Run:
    """One run's folder: spec.json, request.json, status.json, eval.jsonl, train.jsonl, ..."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def results(self) -> Path:
        """The results folder that contains it."""
        return self.path.parents[1]

    @property
    def spec(self) -> RunSpec:
        """The identity this run was opened with."""
        try:
            return RunSpec.from_json(read_versioned(self.path / "spec.json", SPEC))
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self.path / 'spec.json'} was written by another version ({error!r}):"
                " move this run's folder away and run again"
            ) from None

    @property
    def request(self) -> Request:
        """The last request written."""
        path = self.path / "request.json"
        try:
            return Request(**with_home(read_record(path, {}, ANEW)))
        except TypeError as error:
            raise DamagedError(f"{path} is damaged ({error}); {ANEW}") from None

    def write_request(self, request: Request) -> None:
        """Write the request; only for the holder of the lease."""
        write_json(self.path / "request.json", asdict(request))

    def status(self) -> dict[str, Any]:
        """The last status written; queued if there is none.

        Raises:
            DamagedError: status.json does not contain a valid status.
        """
        path = self.path / "status.json"
        if not path.exists():
            return {"state": State.QUEUED}
        status = read_record(path, STATUS, ANEW, needed="state")
        if status["state"] not in set(State):
            raise DamagedError(f"{path} is damaged (no state is {status['state']!r}); {ANEW}")
        return status

    def known_status(self) -> dict[str, Any]:
        """The last status written; queued if there is none or it is damaged."""
        try:
            return self.status()
        except DamagedError:
            return {"state": State.QUEUED}

    def origin(self) -> dict[str, Any]:
        """Provenance of the run (harness/store/provenance.py); empty if there is none.

        Raises:
            DamagedError: provenance.json is damaged.
        """
        path = self.path / "provenance.json"
        mend = "restore it from a copy, or delete it: the numbers stay, without hardware and costs"
        return read_record(path, ORIGIN, mend) if path.exists() else {}

    def set_status(self, state: State, reason: str = "", **more: Any) -> None:
        """Write status.json with state, reason, and further fields (step, attempts, ...)."""
        write_json(
            self.path / "status.json",
            {
                **more,
                "state": state,
                "reason": told_without_home(reason),
                "updated": time.time(),
            },
        )

    def rows(self) -> dict[Measure, EvalRow]:
        """Evaluations by key; the last row of a key wins.

        Raises:
            ArtifactError: a line is damaged, or written by a newer version.
        """
        path = self.path / "eval.jsonl"
        rows: dict[Measure, EvalRow] = {}
        for record in read_lines(path):
            try:
                row = EvalRow.from_json(record)
                rows[row.measure] = row
            except (ValueError, TypeError) as error:
                raise ArtifactError(
                    f"{path}: a line cannot be read: {error};"
                    " update precondbench, or move this run's folder away"
                ) from None
        return rows

    def plugins(self) -> dict[str, str]:
        """`kind name` -> digest of a plugin's file, for older rows that do not contain it."""
        known: dict[str, str] = self.origin().get("plugins", {})
        if all(" " in plugin for plugin in known):
            return known
        spec = self.spec  # which says how the plugin of an axis is called
        return {f"{axis} {getattr(spec, axis).name}": known[axis] for axis in known}

    def is_torn(self) -> bool:
        """Whether the last line of eval.jsonl is incomplete after a crash; `rows` ignores it."""
        return is_torn(self.path / "eval.jsonl")

    def append(self, row: EvalRow) -> None:
        """Add one evaluation, flushed to disk before this returns."""
        append_line(self.path / "eval.jsonl", row.to_json())

    def log(self, record: dict[str, Any]) -> None:
        """Add one line to train.jsonl."""
        append_line(self.path / "train.jsonl", record)

    def clock(self) -> dict[int, float]:
        """step -> seconds of training, from train.jsonl.

        Raises:
            ArtifactError: a line is damaged.
        """
        path, clock = self.path / "train.jsonl", {}
        for record in read_lines(path):
            try:
                clock[int(record["step"])] = float(record["seconds"])
            except (KeyError, TypeError, ValueError):
                raise ArtifactError(
                    f"{path}: a line has no step and seconds ({str(record)[:60]}); delete that line"
                    " and run again"
                ) from None
        return clock

    @property
    def checkpoints(self) -> Path:
        """Folder of the newest checkpoints."""
        return self.path / "checkpoints"

    def weights(self, step: int, ema: float | None = None) -> Path:
        """Path of the evaluation weights of a budget, of the target (None) or another average."""
        rate = "" if ema is None else f"-ema{ema}"
        return self.path / "ema" / f"step-{step:08d}{rate}.safetensors"

    def budgets_with_weights(self) -> list[int]:
        """The budgets whose evaluation weights exist."""
        steps = (path.stem.removeprefix("step-") for path in self.path.glob("ema/step-*"))
        return sorted(int(step) for step in steps if step.isdigit())

    def without_averages(self, rates: Iterable[float]) -> list[float]:
        """Those of `rates` that training did not keep, by its newest checkpoint or weights."""
        steps, checkpoints = self.budgets_with_weights(), sorted(self.checkpoints.glob("step-*"))
        lacking = []
        for rate in rates:
            places = [self.weights(step, rate) for step in steps]
            if checkpoints:
                places = [checkpoints[-1] / f"{average_name(rate)}.safetensors"]
            if places and not any(path.exists() for path in places):
                lacking.append(rate)
        return lacking

    def missing(self, wanted: Iterable[Measure]) -> list[Measure]:
        """Those of `wanted` that have no row yet, in order."""
        have = self.rows()
        return [measure for measure in wanted if measure not in have]

    def fail(self, rank: int, state: State, reason: str, cause: str, **more: Any) -> None:
        """Write a note why a process of this run failed; its runner reads and removes it."""
        told = {"state": state, "reason": told_without_home(reason), "cause": cause}
        note = {**more, **told, "time": time.time()}
        write_json(self.path / f"failure-{rank}.json", note)

    def failures(self) -> list[Path]:
        """Paths of the failure notes of processes of this run."""
        return sorted(self.path.glob("failure-*.json"))

    def failure(self, path: Path) -> dict[str, Any] | None:
        """Read a failure note; None if it cannot be read."""
        try:
            note = read_record(path, FAILURE, "delete it")
        except (OSError, ArtifactError):
            return None
        return note if note.keys() >= FAILURE.keys() and note["state"] in set(State) else None

    def lease(self) -> SoftFileLease:
        """The lease of this run; see harness/store/lease.py."""
        return lease(self.path / ".lease")

    def tidy(self) -> None:
        """Remove temporary files of killed processes; only for the holder of the lease."""
        tidy(self.path)

    def mark_done(self) -> None:
        """Set the state of a run with all measurements to done, if it died before that.

        Also removes an incomplete last line of eval.jsonl. Only for the holder of the lease.
        """
        trim(self.path / "eval.jsonl")
        status = self.known_status()
        if status["state"] != State.DONE:
            self.tidy()
            self.set_status(State.DONE, step=status.get("step", 0))

    def is_locked(self) -> bool:
        """Whether another process holds the lease of this run."""
        if not (self.path / ".lease").exists():
            return False
        mine = self.lease()
        if not taken(mine):
            return True
        mine.release()
        return False
