"""Students that were trained here: the folder of a run, or one of its weight files."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from harness.api import (
    ConfigError,
    Params,
    StudentFormat,
    StudentSpec,
    TrainedStudent,
    create,
    register_student,
)


class RunParams(Params):
    """`step`: the budget whose weights are meant, by default the last one."""

    step: int | None = Field(default=None, ge=0)


@register_student("run")
class OwnRun(StudentFormat):
    """A run's folder, e.g. results/runs/ctm-unet-ctm-s0-0123456789, or a file in its ema/.

    Raises:
        ConfigError: it has no such weights, or its teacher is not there any more.
    """

    Params = RunParams

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with a spec.json, or a safetensors file in the ema/ of one."""
        if path.suffix.lower() == ".safetensors":
            return (path.parents[1] / "spec.json").is_file()
        return (path / "spec.json").is_file()

    def load(self, path: Path) -> TrainedStudent:
        """See `StudentFormat.load`."""
        import torch

        from harness.core.student import Student
        from harness.registry import registry
        from harness.store.run import Run
        from harness.train.cell import calibrated, empty_network, resolve_dataset
        from harness.train.checkpoint import load_ema

        folder = path if path.is_dir() else path.parents[1]
        weights = self._weights(folder) if path.is_dir() else path
        run = Run(folder.resolve())
        spec = run.spec
        teacher = create("teacher", spec.teacher.name, spec.teacher.params)
        self._unchanged(folder, "teacher", spec.digests["teacher"], teacher.spec.digest)
        dataset = None
        if registry.get("precond", spec.precond.name).needs_calibration():
            dataset = resolve_dataset(spec.dataset, teacher)
            self._unchanged(folder, "dataset", spec.digests["dataset"], dataset.spec.digest)
        results, cpu = run.results, torch.device("cpu")
        precond, _ = calibrated(spec.precond, teacher, dataset, results, cpu)
        network = empty_network(spec, teacher)
        load_ema(weights, network)
        for parameter in network.parameters():
            parameter.requires_grad = False  # the method of that name fails inside torch.func.jvp
        objective = create("objective", spec.objective.name, spec.objective.params)
        step = int(weights.stem.removeprefix("step-"))
        known = StudentSpec(
            shape=teacher.spec.shape,
            sigma_data=teacher.spec.sigma_data,
            sigma_min=teacher.spec.sigma_min,
            sigma_max=teacher.spec.sigma_max,
            classes=teacher.spec.classes,
            digest=f"{spec.run_id}@{step}",
            ends="any" if "exact" in objective.samplers else "sigma_min",
            format=self.name,
            facts={"run_id": spec.run_id, "step": step, "images": step * spec.train["batch"]},
        )
        return TrainedStudent(known, Student(network.eval(), precond))

    def _unchanged(self, folder: Path, what: str, then: str, now: str) -> None:
        if then != now:
            raise ConfigError(
                f"{folder}: its {what} has changed since it was trained (digest {then} then, {now}"
                " now), and network and coefficients come from it: put the old one back"
            )

    def _weights(self, folder: Path) -> Path:
        kept = sorted((folder / "ema").glob("step-*.safetensors"))
        if self.params.step is not None:
            kept = [path for path in kept if path.stem == f"step-{self.params.step:08d}"]
        if not kept:
            which = "no weights" if self.params.step is None else f"none of step {self.params.step}"
            raise ConfigError(
                f"{folder}: it keeps {which} in ema/ (published runs keep none): run its grid, or"
                " name a budget that was reached"
            )
        return kept[-1]
