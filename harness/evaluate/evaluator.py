"""Evaluation of a cell: samples are drawn once per sampler and NFE and serve all metrics."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from harness.api import Dataset, Extractor, Metric, Score, StudentLike, Teacher, create
from harness.api.evaluation import EXTRACTED
from harness.core.group import Group
from harness.core.progress import tell
from harness.core.sampling import Walk, evaluation_labels, fresh_noise, initial_noise
from harness.core.schedule import karras
from harness.core.solver import solve
from harness.evaluate.features import Features, as_score, check_pair, few, score
from harness.evaluate.images import is_image, quantise
from harness.evaluate.moments import Moments
from harness.evaluate.reference import Reference, load_reference
from harness.registry import own_source
from harness.store.artifacts import get_or_make
from harness.store.records import Measure, Request, Rounding

log = logging.getLogger(__name__)

#: samples drawn and extracted together. Ranks take whole blocks of the list of samples, so that
#: rounding, which depends on the batch size, is the same for any number of processes.
BLOCK = 1024
IMAGE_BLOCK = 256


class Evaluator:
    """Draws the samples of an evaluation, divided over processes, and computes metrics on them.

    The initial noise of sample k depends on (evaluation seed, k) only, and that of stochastic
    samplers on (evaluation seed, jump, k): both are the same for every preconditioning, budget,
    number of processes and batch size. Each block goes through every extractor as soon as it is
    drawn, on the device where it was computed; images are quantised to uint8 first.

    Args:
        accelerator: an `Accelerator`, or a `Machine` (harness/train) for a single process.
        results: results folder whose artifacts store references and ODE solutions; None: no store.
        trained_times: the objective's training grid, for samplers with `@trained` times.
        sigma_min: noise level at which sampling ends; default: the teacher's.
    """

    def __init__(
        self,
        teacher: Teacher,
        dataset: Dataset,
        request: Request,
        accelerator: Any,
        results: Path | None,
        heartbeat: Callable[[], None] = lambda: None,
        trained_times: Tensor | None = None,
        sigma_min: float | None = None,
    ) -> None:
        self.teacher = teacher
        self.dataset = dataset
        self.request = request
        self.accelerator = accelerator
        self.results = results
        self.heartbeat = heartbeat
        self.trained_times = trained_times
        self.walked = replace(teacher.spec, sigma_min=sigma_min or teacher.spec.sigma_min)
        self.metrics: dict[str, Metric] = {
            label: create("metric", **request.metric_plugin(label)) for label in request.metrics
        }
        self.extractors: dict[str, Extractor] = {
            name: create("extractor", name) for name in request.extractors
        }
        self._images = is_image(dataset.spec.shape)
        block = request.evaluation_batch or (IMAGE_BLOCK if self._images else BLOCK)
        self.batch = min(block, max(request.samples, self._data_n))
        for metric, extractor in itertools.product(self.metrics.values(), self.extractors.values()):
            check_pair(metric, extractor, self._images)
        if any(metric.needs in EXTRACTED for metric in self.metrics.values()):
            for extractor in self.extractors.values():
                extractor.ready().to(accelerator.device)
        self._files: dict[str, Reference] = {
            name: load_reference(
                Path(file["file"]), self.extractors[name], file["n"], shape=list(dataset.spec.shape)
            )
            for name, file in request.references.items()
        }
        self._references: dict[tuple[str, str], Features] = {}
        self._ends: Tensor | None = None

    def protocol(self, measure: Measure) -> tuple[str | None, int]:
        """(extractor id or None, number of reference samples) of a measure, as in its row."""
        if self.metrics[measure.metric].needs == "trajectory":
            return None, measure.n
        if self.metrics[measure.metric].needs == "samples":
            return None, self._data_n
        extractor = self.extractors[measure.extractor_name]
        rounded = "" if measure.rounding == "edm" else f"~{measure.rounding}"
        if not measure.reference:
            return f"{extractor.id}{rounded}", self._data_n
        file = self._files[extractor.name]
        name = f"{extractor.id}{rounded} vs {Path(file.meta['source']).stem}#{measure.reference}"
        return name, file.moments.n

    @property
    def _data_n(self) -> int:
        """Number of data samples that serve as the reference."""
        data = self.dataset.spec
        return data.references or data.size or self.request.samples

    def measure(self, student: StudentLike, measures: Iterable[Measure]) -> dict[Measure, Score]:
        """Compute the scores of the measures of one step; collective.

        Only the main process gets scores. A score is NaN if a sample is not finite.
        """
        groups: dict[tuple[str, int], list[Measure]] = {}
        for measure in measures:
            groups.setdefault((measure.sampler, measure.nfe), []).append(measure)
        scores: dict[Measure, Score] = {}
        for (sampler, nfe), group in groups.items():
            walk = Walk.of(sampler, nfe, self.walked, self.trained_times)
            scores.update(self._measure(student, walk, group))
        return scores

    def _measure(
        self, student: StudentLike, walk: Walk, group: list[Measure]
    ) -> dict[Measure, Score]:
        """One pass over the samples of a sampler and NFE serves every metric."""
        needs = {measure: self.metrics[measure.metric].needs for measure in group}
        features = {
            name: Features(
                self.extractors[name],
                keep=any(
                    needs[m] in ("features", "logits") for m in group if m.extractor_name == name
                ),
            )
            for name in dict.fromkeys(m.extractor_name for m in group if needs[m] in EXTRACTED)
        }
        #: samples as drawn (`trajectory`) and as extractors see them (`samples`), if needed
        kept: dict[str, list[Tensor]] = {
            what: [] for what in ("trajectory", "samples") if what in needs.values()
        }
        finite = True
        for samples in self._draw_mine(student, walk):
            finite = finite and bool(samples.isfinite().all())
            seen = self._seen(samples, self.request.rounding) if finite else samples
            for what, parts in kept.items():
                parts.append((samples if what == "trajectory" else seen).cpu())
            for found in features.values() if finite else ():
                found.add(seen)
        if not all(self._gather([finite])):
            return {measure: Score(float("nan")) for measure in group}
        whole = {name: found.gather(self._gather) for name, found in features.items()}
        drawn = {what: self._together(parts) for what, parts in kept.items()}
        if "trajectory" in kept:
            self._trajectory()  # every process has its share in solving it
        if not self.accelerator.is_main_process:
            return {}
        return {measure: self._score(measure, whole, drawn) for measure in group}

    def _together(self, parts: list[Tensor]) -> Tensor:
        """Concatenate the samples of all processes in order; collective."""
        shares = self._gather([torch.cat(parts) if parts else None])
        return torch.cat([share for share in shares if share is not None])

    def _score(
        self, measure: Measure, whole: dict[str, Features], drawn: dict[str, Tensor]
    ) -> Score:
        """Compute one metric from the input that its `needs` selects."""
        metric = self.metrics[measure.metric]
        if metric.needs == "trajectory":
            generated = drawn["trajectory"].flatten(1).double()
            return as_score(metric.compute(generated, self._trajectory()))
        if metric.needs == "samples":
            return as_score(metric.compute(drawn["samples"], self._data))
        found = whole[measure.extractor_name]
        if measure.reference:
            moments = self._files[measure.extractor_name].moments
            return score(metric, found, Features.restored(found.extractor, moments))
        return score(metric, found, self._reference(measure.extractor_name, metric.needs))

    @cached_property
    def _data(self) -> Tensor:
        """The reference samples in the form that extractors take, on the CPU."""
        return torch.cat([seen.cpu() for seen in self._reference_blocks()])

    def _reference_blocks(self) -> Iterator[Tensor]:
        blocks = self._blocks(self._data_n)
        for done, numbers in enumerate(blocks):
            self.heartbeat()
            tell("features of the data", done, len(blocks))
            data, _ = self.dataset.draw(self.request.evaluation_seed, "reference", numbers)
            yield self._seen(data)

    def _seen(self, samples: Tensor, rounding: Rounding = "edm") -> Tensor:
        """Samples in the form that extractors take: images as uint8, other data unchanged.

        Reference data use the default rounding, which restores their original bytes exactly.
        """
        return quantise(samples, rounding) if self._images else samples

    def _blocks(self, n: int) -> tuple[Tensor, ...]:
        return torch.arange(n).split(self.batch)

    def _my_blocks(self, what: str) -> Iterator[Tensor]:
        """Yield this process's blocks of sample indices, and report progress as the task `what`."""
        blocks = self._blocks(self.request.samples)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = torch.arange(len(blocks)).tensor_split(world)[rank].tolist()
        for done, k in enumerate(mine):
            self.heartbeat()
            tell(what, done, len(mine))
            yield blocks[k].to(self.accelerator.device)

    def _draw_mine(self, student: StudentLike, walk: Walk) -> Iterator[Tensor]:
        """Yield this process's share of the samples, block by block, in order of index."""
        for indices in self._my_blocks(f"sampling, NFE {len(walk.times) - 1}"):
            x = self._noise(indices, torch.float32)
            fresh = fresh_noise(self.request.evaluation_seed, indices, self.teacher.spec.shape)
            yield walk.end(student, x, fresh, self._labels(indices))

    def _gather(self, share: list) -> list:
        """All-gather: the lists of all ranks, concatenated."""
        return share if self.accelerator.num_processes == 1 else gather_object(share)

    def _noise(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        spec = self.teacher.spec
        return initial_noise(
            self.request.evaluation_seed, indices, spec.shape, spec.sigma_max, dtype
        )

    def _labels(self, indices: Tensor) -> Tensor | None:
        return evaluation_labels(self.request.evaluation_seed, indices, self.teacher.spec.classes)

    def _reference(self, name: str, needs: str) -> Features:
        """Features of the data, or only their moments; computed once per dataset and extractor."""
        what = "moments" if needs == "moments" else "features"
        if (name, what) not in self._references:
            extractor = self.extractors[name]
            key = {
                "dataset": self.dataset.spec.digest,
                "extractor": extractor.id,
                "n": self._data_n,
                "seed": self.request.evaluation_seed,
            }
            if source := own_source(type(extractor)):  # what was made before an edit is not used
                key["source"] = source
            made = get_or_make(
                self.results, f"reference-{what}", key, lambda: self._make_reference(name, what)
            ).arrays
            tensors = {field: torch.from_numpy(value) for field, value in made.items()}
            moments = Moments(int(tensors["n"]), tensors["mean"], tensors["m2"])
            dim = len(moments.mean)
            if warning := few(min(self.request.samples, moments.n), dim):
                log.warning("%s: %s", extractor.id, warning)
            self._references[name, what] = Features.restored(
                extractor, moments, tensors.get("vectors")
            )
        return self._references[name, what]

    def _make_reference(self, name: str, what: str) -> dict:
        found = Features(self.extractors[name], keep=what == "features")
        for seen in self._reference_blocks():
            found.add(seen.to(self.accelerator.device))
        moments = found.moments
        arrays = {"n": torch.tensor(moments.n), "mean": moments.mean, "m2": moments.m2}
        if found.keep:
            arrays["vectors"] = found.vectors
        return {field: value.numpy() for field, value in arrays.items()}

    def _trajectory(self) -> Tensor:
        """The teacher's ODE solution from the evaluation noise, float64 [n, d]; collective.

        Processes other than the main one get an empty tensor.
        """
        if self._ends is None:
            spec, request = self.teacher.spec, self.request
            key = {
                "teacher": spec.digest,
                "samples": request.samples,
                "seed": request.evaluation_seed,
                "steps": request.ode_steps,
            }

            def get(make: Callable[[], dict]) -> Tensor:
                if not self.accelerator.is_main_process:
                    return torch.empty(0)  # a gigabyte that only the main process compares with
                artifact = get_or_make(self.results, "trajectories", key, make)
                return torch.from_numpy(artifact.arrays["x"])

            self._ends = Group.current().together(get, lambda: {"x": self._solve().numpy()})
        return self._ends

    def _solve(self) -> Tensor:
        spec, device = self.teacher.spec, self.accelerator.device
        intervals = 16
        times = karras(intervals + 1, spec.sigma_min, spec.sigma_max).to(device)
        substeps = max(1, self.request.ode_steps // intervals)
        ends: list[Tensor] = []
        with torch.no_grad():
            for indices in self._my_blocks("solving the teacher's ODE"):
                labels = self._labels(indices)
                x = self._noise(indices, torch.float64)
                end = solve(
                    lambda x, t, labels=labels: self.teacher.denoise(x, t, labels).double(),
                    x,
                    times,
                    substeps,
                )
                ends.append(end.flatten(1).cpu())
        return torch.cat(self._gather(ends))
