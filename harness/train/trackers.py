"""Logging of a run to TensorBoard, W&B and others, in addition to the files in results/."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator

from harness.store.records import RunSpec


def start_trackers(accelerator: Accelerator, spec: RunSpec) -> None:
    """Start the trackers named by `launch.track`, with the run's id and settings."""
    settings: dict[str, Any] = {
        "precond": spec.precond.label,
        "teacher": spec.teacher.label,
        "objective": spec.objective.label,
        "dataset": spec.dataset.label,
        "seed": spec.seed,
        **{f"train.{key}": value for key, value in spec.train.items()},
    }
    # a run that continues continues its page, too
    own = {"wandb": {"name": spec.run_id, "id": spec.run_id, "resume": "allow"}}
    plain = {
        key: value if isinstance(value, int | float | str | bool) else str(value)
        for key, value in settings.items()
    }
    accelerator.init_trackers("precondbench", config=plain, init_kwargs=own)
