"""Evaluating one cell: samples once per NFE, every metric on them, references made once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from harness.api import Dataset, Extractor, Metric, StudentLike, Teacher, create
from harness.core.sampling import evaluation_labels, initial_noise, sample
from harness.core.schedule import karras
from harness.core.solver import solve
from harness.store.artifacts import get_or_make
from harness.store.records import Measure, Request

BATCH = 4096


class Evaluator:
    """Draws samples by index, slice by slice of the process group, and measures them.

    The noise of sample k depends on (evaluation seed, k) only: the same for every strategy, budget,
    NFE, process count and batch size.
    """

    def __init__(
        self,
        teacher: Teacher,
        dataset: Dataset,
        request: Request,
        accelerator: Accelerator,
        results: Path,
    ) -> None:
        self.teacher = teacher
        self.dataset = dataset
        self.request = request
        self.accelerator = accelerator
        self.results = results
        self.metrics: dict[str, Metric] = {name: create("metric", name) for name in request.metrics}
        self.extractors: dict[str, Extractor] = {
            name: create("extractor", name) for name in request.extractors
        }
        self._references: dict[str, Tensor] = {}

    @property
    def reference_n(self) -> int:
        """How many data samples generated ones are compared with."""
        return self.dataset.spec.size or self.request.samples

    def measure(self, student: StudentLike, measures: Iterable[Measure]) -> dict[Measure, float]:
        """Values of measures of one step; every rank must call it, the main one gets the values."""
        by_nfe: dict[int, list[Measure]] = {}
        for measure in measures:
            by_nfe.setdefault(measure.nfe, []).append(measure)
        values: dict[Measure, float] = {}
        for nfe, group in by_nfe.items():
            samples = self.draw(student, nfe)
            if not self.accelerator.is_main_process:
                continue
            features: dict[str, Tensor] = {}
            for measure in group:
                metric = self.metrics[measure.metric]
                if metric.needs == "trajectory":
                    generated, reference = samples.flatten(1).double(), self._trajectory()
                else:
                    name = measure.extractor
                    if name not in features:
                        features[name] = self.extractors[name](samples)
                    generated, reference = features[name], self._features(name)
                values[measure] = metric.compute(generated, reference)
        return values

    def draw(self, student: StudentLike, nfe: int) -> Tensor:
        """All samples of an NFE, in order of index, on the CPU of the main process."""
        spec, device = self.teacher.spec, self.accelerator.device
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = torch.arange(self.request.samples).tensor_split(world)[rank].to(device)
        parts = []
        for indices in mine.split(BATCH):
            x = self._noise(indices, torch.float32)
            drawn = sample(student, x, nfe, spec.sigma_min, spec.sigma_max, self._labels(indices))
            parts.append(drawn.cpu())
        local = torch.cat(parts) if parts else torch.empty(0, *spec.shape)
        if world == 1:
            return local
        return torch.cat(gather_object([local]))

    def _noise(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        spec = self.teacher.spec
        return initial_noise(
            self.request.evaluation_seed, indices, spec.shape, spec.sigma_max, dtype
        )

    def _labels(self, indices: Tensor) -> Tensor | None:
        seed, classes = self.request.evaluation_seed, self.teacher.spec.classes
        return evaluation_labels(seed, indices, classes)

    def _features(self, extractor: str) -> Tensor:
        if extractor not in self._references:
            numbers = torch.arange(self.reference_n)
            data, _ = self.dataset.draw(self.request.evaluation_seed, "reference", numbers)
            self._references[extractor] = self.extractors[extractor](data)
        return self._references[extractor]

    def _trajectory(self) -> Tensor:
        """The teacher's fine ODE solution from the evaluation noise, flattened, float64."""
        if "-" not in self._references:
            spec, request = self.teacher.spec, self.request
            key = {
                "teacher": spec.digest,
                "samples": request.samples,
                "seed": request.evaluation_seed,
                "steps": request.ode_steps,
            }
            artifact = get_or_make(
                self.results, "trajectories", key, lambda: {"x": self._solve().numpy()}
            )
            self._references["-"] = torch.from_numpy(artifact.arrays["x"])
        return self._references["-"]

    def _solve(self) -> Tensor:
        spec, device = self.teacher.spec, self.accelerator.device
        intervals = 16
        times = karras(intervals + 1, spec.sigma_min, spec.sigma_max).to(device)
        substeps = max(1, self.request.ode_steps // intervals)
        ends = []
        with torch.no_grad():
            for indices in torch.arange(self.request.samples, device=device).split(BATCH):
                labels = self._labels(indices)
                x = self._noise(indices, torch.float64)
                end = solve(
                    lambda x, t, labels=labels: self.teacher.denoise(x, t, labels).double(),
                    x,
                    times,
                    substeps,
                )
                ends.append(end.flatten(1).cpu())
        return torch.cat(ends)
