"""Trained students, of this harness or published elsewhere, and the plugins that load them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from harness.api.plugin import Plugin
from harness.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from harness.core.sampling import Walk
    from harness.core.student import Student

#: where a student's jumps may end: at any s <= t, or only at sigma_min (a consistency model)
Ends = Literal["any", "sigma_min"]


@dataclass(frozen=True)
class StudentSpec:
    """Properties of a student: shape [C, H, W] or [d], noise range, classes, digest of its content.

    `ends` is where the jumps it was trained on end; `format` the plugin that loaded it; `facts`
    further information from its file (steps, images, objective), for display only.
    """

    shape: tuple[int, ...]
    sigma_data: float
    sigma_min: float
    sigma_max: float
    classes: int
    digest: str
    ends: Ends
    format: str
    facts: dict[str, Any]

    @property
    def samplers(self) -> tuple[str, ...]:
        """Kinds of sampler (harness/core/sampler.py) whose jumps it was trained on."""
        return ("exact", "gamma", "stochastic") if self.ends == "any" else ("stochastic",)

    def walk(self, sampler: str | None, nfe: int) -> Walk:
        """The sampler and its noise levels for `nfe` steps; default: the one it was trained for.

        Raises:
            ConfigError: the sampler needs jumps or times that the student was not trained on.
        """
        from harness.core.sampler import Sampler
        from harness.core.sampling import Walk

        if nfe < 1:
            raise ConfigError(f"nfe: is {nfe}, must be 1 or more")
        name = sampler or self.samplers[0]
        try:
            read = Sampler.read(name)
        except ValueError as error:
            raise ConfigError(f"sampler: {error}") from None
        reason = read.misfit(self.sigma_min, self.sigma_max)
        if read.kind not in self.samplers:
            reason = (
                f"sampler {name!r}: a student of format {self.format!r} was trained on jumps to"
                f" sigma_min alone; use {' or '.join(self.samplers)}"
            )
        elif read.times == "trained":
            reason = (
                f"sampler {name!r}: a file does not tell the times that its student was trained"
                " at; give them as a list"
            )
        elif not read.serves(nfe):
            reason = f"sampler {name!r}: its levels are for another number of steps than {nfe}"
        if reason:
            raise ConfigError(reason)
        return Walk.of(name, nfe, self)


class TrainedStudent:
    """A trained student with jumps, denoiser and sampling; made by `load_student`.

    It is a `StudentLike`, so that every sampler of harness/core/sampling.py accepts it.
    """

    def __init__(self, spec: StudentSpec, student: Student) -> None:
        self.spec, self.student = spec, student

    def jump(self, x: Tensor, t: Any, s: Any, labels: Tensor | None = None) -> Tensor:
        """f(x, t, s) [B, *shape] for noise levels t >= s, numbers or [B].

        Args:
            x: [B, *shape] at noise level t, data in [-1, 1].
            labels: one-hot [B, classes], or class numbers, int64 [B]; None: unconditional.

        Raises:
            ConfigError: x or labels have the wrong shape, or s is not sigma_min for a consistency
                model.
        """
        t, s = (self._levels(x, level) for level in (t, s))
        if not self.student.tells_s and bool((s != self.spec.sigma_min).any()):
            raise ConfigError(
                f"student {self.spec.format!r}: a consistency model jumps to sigma_min ="
                f" {self.spec.sigma_min:g} alone, not to {float(s.max()):g}: for several steps use"
                " the stochastic sampler, which adds noise between them"
            )
        return self.student.jump(x, t, s, self._one_hot(x, labels))

    __call__ = jump

    def denoise(self, x: Tensor, t: Any, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser D(x, t) [B, *shape]; f(x, t, sigma_min) for a consistency model."""
        if not self.student.tells_s:
            return self.jump(x, t, self.spec.sigma_min, labels)
        return self.student.denoise(x, self._levels(x, t), self._one_hot(x, labels))

    def sample(
        self,
        n: int,
        nfe: int = 1,
        seed: int = 0,
        sampler: str | None = None,
        labels: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Samples [n, *shape], data in [-1, 1]; sample k is a function of (seed, first + k).

        Args:
            sampler: a name such as `exact`, `gamma0.5` or `stochastic`; by default the one it was
                trained for.
            labels: classes int64 [n] or one-hot; by default drawn uniformly from the seed.

        Raises:
            ConfigError: the student was not trained for this sampler, or `nfe` or labels are
                invalid.
        """
        import torch

        from harness.core.sampling import evaluation_labels, fresh_noise, initial_noise

        spec, device = self.spec, next(self.student.backbone.parameters()).device
        walk = spec.walk(sampler, nfe)
        indices = torch.arange(first, first + n, device=device)
        if labels is None:
            labels = evaluation_labels(seed, indices, spec.classes)
        noise = initial_noise(seed, indices, spec.shape, spec.sigma_max, torch.float32)
        return walk.end(self, noise, fresh_noise(seed, indices, spec.shape), labels)

    def to(self, device: Any) -> Self:
        """Move to a device; returns self."""
        self.student.backbone.to(device)
        self.student.precond.to(device)
        return self

    def _levels(self, x: Tensor, level: Any) -> Tensor:
        import torch

        if tuple(x.shape[1:]) != self.spec.shape:
            raise ConfigError(
                f"student {self.spec.format!r}: samples of shape {list(x.shape[1:])} do not fit"
                f" its {list(self.spec.shape)}"
            )
        return torch.as_tensor(level, dtype=torch.float64, device=x.device).expand(len(x))

    def _one_hot(self, x: Tensor, labels: Tensor | None) -> Tensor | None:
        import torch

        classes = self.spec.classes
        if labels is None or not classes:
            return None
        fit = labels.shape[-1] == classes
        if labels.ndim == 1 and not labels.is_floating_point():
            fit = bool((labels >= 0).all() and (labels < classes).all())
            labels = torch.nn.functional.one_hot(labels, classes) if fit else labels
        if not fit:
            raise ConfigError(
                f"student {self.spec.format!r}: labels of shape {list(labels.shape)} are not of its"
                f" {classes} classes: give class numbers below that, or one-hot rows"
            )
        return labels.to(x.device, torch.float32)


class StudentFormat(Plugin):
    """A file or folder format from which trained students are loaded."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether the file or folder at `path` has this format; cheap, without torch.

        Raises:
            ConfigError: the file has this format, but is damaged or unsafe to load.
        """
        raise NotImplementedError

    def load(self, path: Path) -> TrainedStudent:
        """Load the student; its network is frozen, float32, in eval mode.

        Raises:
            ConfigError: the file cannot be used; the message says why.
        """
        raise self.lacks("load(self, path)")
