"""Run a matrix on Slurm: submit unfinished cells as one job array, and wait for them."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from filelock import SoftFileLease

from harness.config.matrix import wanted
from harness.config.schema import Launch
from harness.errors import ConfigError, HarnessError
from harness.runner import squeue
from harness.runner.job import CellJob
from harness.runner.scheduler import Outcome, owing
from harness.store.lease import held, taken
from harness.store.records import Request, RunSpec, State
from harness.store.run import Run
from harness.store.store import ResultStore
from harness.store.submissions import Submission, newest_jobs

log = logging.getLogger(__name__)

LOOK = 5.0  # seconds between checks of the files of cells
ASK = 15.0  # seconds between queries of squeue
SETTLE = 60.0  # seconds until files written on another machine must be visible here (NFS)

States = Mapping[str, tuple[str, str]]


@dataclass
class Waiting:
    """A cell that is worked on by a job or by another runner."""

    run: Run
    lease: SoftFileLease
    job: str | None = None
    submission: Submission | None = None
    ours: bool = False
    gone: float | None = None


@dataclass
class Slurm:
    """Submits cells and learns their outcome from their files; jobs run without this process, too.

    A cell is not submitted while a job of an earlier submission has it, or while another runner
    holds its lease. Slurm is queried only for the states of jobs.

    Args:
        name: name of the grid, shown in the queue.
        progress: called every few seconds with this runner.
        cluster: submitit's name of an executor; `local` and `debug` run jobs on this machine.
        ask: function that returns state and reason of jobs by id.
    """

    store: ResultStore
    name: str
    specs: Sequence[RunSpec]
    request: Request
    launch: Launch
    progress: Callable[[Slurm], None] = lambda runner: None
    rerun: frozenset[State] = frozenset()
    cluster: str = "slurm"
    ask: Callable[[Iterable[str]], States] = squeue.states
    outcome: Outcome = field(default_factory=Outcome)
    waiting: list[Waiting] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states: States = {}
        self._asked = 0.0
        self._silent = False
        self._again: list[RunSpec] = []

    def submit(self) -> None:
        """Submit every cell that lacks measurements and is not in progress elsewhere.

        Raises:
            ConfigError: submitit or Slurm is missing.
            HarnessError: Slurm does not respond, or refuses the job.
        """
        _check(self.cluster)
        self._submit(self.specs)

    def wait(self) -> Outcome:
        """Wait until every cell is done or has failed; an interrupt only stops waiting."""
        try:
            while self.waiting:
                self._ask()
                self.waiting = [cell for cell in self.waiting if not self._settled(cell)]
                if self._again:
                    again, self._again = self._again, []
                    self._submit(again)
                self.progress(self)
                time.sleep(LOOK)
            self.progress(self)
        except KeyboardInterrupt:
            self.outcome.interrupted = True
        return self.outcome

    @property
    def working(self) -> list[Waiting]:
        """Cells whose job is running."""
        return [cell for cell in self.waiting if self._state(cell)[0] == "RUNNING"]

    @property
    def handed(self) -> str:
        """Numbers of cells submitted and of cells in progress elsewhere, for display."""
        ours = [cell for cell in self.waiting if cell.ours]
        said = []
        if ours and ours[0].submission and ours[0].job:
            array, folder = ours[0].job.partition("_")[0], ours[0].submission.folder
            said.append(f"{len(ours)} cells handed to Slurm as job {array}, logs in {folder}")
        if len(self.waiting) > len(ours):
            said.append(f"{len(self.waiting) - len(ours)} cells are worked on already")
        return "; ".join(said) or "nothing to hand over"

    @property
    def now(self) -> str:
        """Numbers of jobs by state, with the reason if pending, for display."""
        count: Counter[str] = Counter()
        for cell in self.waiting:
            state, reason = self._state(cell)
            count[f"{state.lower()} ({reason})" if state == "PENDING" else state.lower()] += 1
        return ", ".join(f"{n} {what}" for what, n in count.most_common())

    @property
    def jobs(self) -> list[str]:
        """Ids of the job arrays that are waited for."""
        return sorted({cell.job.partition("_")[0] for cell in self.waiting if cell.job})

    @property
    def advice(self) -> str:
        """Commands to watch and cancel the jobs, for display."""
        jobs = ",".join(self.jobs)
        if not jobs:
            return "other runners have these cells; the same command waits for them"
        return (
            f"squeue -j {jobs} and `status {self.store.root}` show them, scancel"
            f" {jobs.replace(',', ' ')} stops them (cells save first); the same command waits for"
            " them and writes the tables"
        )

    def _submit(self, specs: Sequence[RunSpec]) -> None:
        with held(self.store.root / "slurm" / ".lease"):
            runs = owing(self.store, specs, self.request, self.rerun, self.outcome)
            known = newest_jobs(self.store.root)
            had = {run.run_id: known[run.run_id] for run in runs if run.run_id in known}
            states = self.ask([job for _, job in had.values()])
            free = []
            for run in runs:
                submission, job = had.get(run.run_id, (None, None))
                if squeue.active(states.get(job or "", (None, ""))[0]):
                    self.waiting.append(Waiting(run, run.lease(), job, submission))
                elif run.is_locked():
                    self.waiting.append(Waiting(run, run.lease()))
                else:
                    free.append(run)
            if free:
                self._hand_over(free)
        self._asked = 0.0

    def _hand_over(self, runs: Sequence[Run]) -> None:
        import submitit

        order = {
            "launch": job_launch(self.launch).model_dump(mode="json"),
            "request": asdict(self.request),
            "rerun": sorted(self.rerun),
        }
        submission = Submission.create(self.store.root, self.name, order)
        executor = submitit.AutoExecutor(
            submission.folder, self.cluster, slurm_max_num_timeout=self.launch.slurm.requeues
        )
        executor.update_parameters(**parameters(self.launch, self.name))
        for run in runs:
            run.set_status(State.QUEUED, "handed to Slurm", step=run.known_status().get("step", 0))
        cells = [CellJob(str(submission.folder), run.run_id) for run in runs]
        try:
            ids = [str(job.job_id) for job in executor.submit_array(cells)]
        except RuntimeError as error:  # submitit's errors, which quote sbatch
            lines = [line for line in str(error).splitlines() if line.strip()]
            reason = f"Slurm refused the jobs: {lines[-1] if lines else error}"
            for run in runs:
                run.set_status(State.FAILED, reason, step=run.known_status()["step"])
            raise HarnessError(reason) from None
        submission.set_jobs(dict(zip((run.run_id for run in runs), ids, strict=True)))
        for run, job in zip(runs, ids, strict=True):
            self.waiting.append(Waiting(run, run.lease(), job, submission, ours=True))

    def _ask(self) -> None:
        """Query the states of jobs every `ASK` s; keep known states if Slurm does not respond."""
        if time.monotonic() - self._asked < ASK:
            return
        try:
            self.states = self.ask([cell.job for cell in self.waiting if cell.job])
            self._silent = False
        except HarnessError as error:
            if not self._silent:
                log.warning("%s; asking again until it does", error)
            self._silent = True
            return
        finally:
            self._asked = time.monotonic()
        for cell in self.waiting:
            if cell.job and squeue.active(self.states.get(cell.job, (None, ""))[0]):
                cell.gone = None
            elif cell.gone is None:
                cell.gone = self._asked

    def _state(self, cell: Waiting) -> tuple[str, str]:
        """State and reason of a cell's job."""
        if cell.job is None:
            return "ELSEWHERE", ""
        return self.states.get(cell.job, ("UNKNOWN", ""))

    def _settled(self, cell: Waiting) -> bool:
        """Whether waiting for a cell is over: it is done, or no job or runner has it any more."""
        run = cell.run
        if not run.missing(wanted(self.request, run.spec)):
            self.outcome.done.append(run.run_id)
            self.outcome.fresh.append(run.run_id)
            return True
        if cell.gone is None or not taken(cell.lease):
            return False
        cell.lease.release()
        status = run.known_status()
        open_end = status["state"] in (State.QUEUED, State.RUNNING, State.DONE)
        if self._asked - cell.gone < (SETTLE if open_end else ASK / 2):
            return False
        if not cell.ours:  # it was not asked for what we want, or it failed: now it is our turn
            self._again.append(run.spec)
            return True
        self.outcome.failed[run.run_id] = self._why(cell, status, open_end)
        return True

    def _why(self, cell: Waiting, status: dict[str, Any], open_end: bool) -> str:
        job = f"job {cell.job}, {self._state(cell)[0]}"
        if not open_end:
            return f"{status['state']}: {status['reason']} ({job})"
        log_file = cell.submission.log(cell.job) if cell.submission and cell.job else ""
        return f"failed: its job ended before it did ({job}); see {log_file}"


def job_launch(launch: Launch) -> Launch:
    """The `launch` section for a cell inside its job: one slot, and the job's cores."""
    alone = {"slots": 1, "threads": launch.threads or launch.slurm.cpus}
    return launch.model_copy(update=alone)


def parameters(launch: Launch, name: str) -> dict[str, Any]:
    """Parameters for submitit: one task per node, with the resources of all its processes."""
    asked = launch.slurm
    here = launch.processes // launch.nodes
    gpus = here if asked.gpus is None and launch.device == "cuda" else asked.gpus
    told = {
        "name": f"precondbench-{name}",
        "nodes": launch.nodes,
        "tasks_per_node": 1,
        "cpus_per_task": asked.cpus * here,
        "mem_gb": asked.mem_gb,
        "gpus_per_node": None if asked.gres else gpus,
        "timeout_min": asked.minutes,
        "stderr_to_stdout": True,
        "slurm_partition": asked.partition,
        "slurm_account": asked.account,
        "slurm_qos": asked.qos,
        "slurm_gres": asked.gres,
        "slurm_setup": asked.setup or None,
        "slurm_array_parallelism": asked.parallel,
        "slurm_signal_delay_s": max(1, round(launch.grace * 60)),
        # one machine's end is everybody's end, or the others would wait for it
        "slurm_srun_args": ["--kill-on-bad-exit=1"] if launch.nodes > 1 else None,
        "slurm_additional_parameters": {"requeue": True} | asked.extra,
    }
    return {key: value for key, value in told.items() if value is not None}


def _check(cluster: str) -> None:
    """Check that submitit and Slurm's commands are installed.

    Raises:
        ConfigError: names what is missing.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError(
            "launch.launcher: slurm needs submitit; pip install 'precondbench[slurm]'"
        )
    missing = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    if cluster == "slurm" and missing:
        raise ConfigError(
            f"launch.launcher: slurm finds no {' and no '.join(missing)} on this machine; run it"
            " where jobs are submitted, or use --launcher local"
        )
