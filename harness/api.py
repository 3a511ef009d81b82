"""The one module a plugin imports: abstractions, decorators, and the functions scripts call.

Importing it does not import torch, so that `plan`, `status` and `report` start at once; plugins
keep to the same rule by importing torch inside their methods.

The three nouns: a `Preconditioning` (how a student's jump is written), a `Teacher` (whose ODE it
learns) and an `Objective` (the loss it learns by). An objective never sees skip and out, a
preconditioning never sees the loss: that seam is the experiment.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import ConfigError, HarnessError, nearest
from harness.registry import registry

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from harness.backbones.base import Backbone
    from harness.core.probe import Probe

__all__ = [
    "Batch",
    "Coeffs",
    "ConfigError",
    "Dataset",
    "DatasetSpec",
    "DenoiserForm",
    "Extractor",
    "HarnessError",
    "Metric",
    "Objective",
    "Params",
    "Plugin",
    "Preconditioning",
    "Score",
    "StudentLike",
    "Teacher",
    "TeacherSpec",
    "calibrate",
    "content_digest",
    "create",
    "create_precond",
    "create_teacher",
    "edm_inner",
    "list_datasets",
    "list_extractors",
    "list_metrics",
    "list_objectives",
    "list_preconds",
    "list_teachers",
    "located",
    "register_dataset",
    "register_extractor",
    "register_metric",
    "register_objective",
    "register_precond",
    "register_teacher",
]


class Params(BaseModel):
    """Parameters of a plugin, validated from grid.yaml: unknown keys are errors, values frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def located(**field: Any) -> Any:
    """A parameter that says where a file is: its content counts, its place does not."""
    return Field(**field, json_schema_extra={"located": True})


class Plugin:
    """What all plugins share: a name, a revision, validated parameters.

    Raise `revision` when a change alters results: it is part of every run's identity, so that old
    and new numbers are never mixed.
    """

    name: ClassVar[str] = ""
    revision: ClassVar[int] = 1
    Params: ClassVar[type[Params]] = Params

    def __init__(self, params: Any = None) -> None:
        self.params: Any = params if params is not None else self.Params()


# ---------------------------------------------------------------------------------------------
# Preconditioning


class Coeffs(NamedTuple):
    """f = skip * x + out * F + shift * offset, each a float64 tensor of the broadcast (t, s).

    `shift` is None for strategies without a constant term.
    """

    skip: Tensor
    out: Tensor
    shift: Tensor | None = None


def edm_inner(t: Tensor, sigma_data: float) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out) of EDM's denoiser D = c_skip x + c_out F (Karras et al. 2022, table 1)."""
    total = t * t + sigma_data**2
    return sigma_data**2 / total, t * sigma_data / total.sqrt()


class Preconditioning(Plugin):
    """A jump along the teacher's ODE, written on the raw network output F:

        f(x, t, s) = skip(t, s) x + out(t, s) F(c_in(t) x, c_noise(t), c_noise(s)) [+ shift(t, s) b]

    with the boundary f(x, t, t) = x. Subclasses write `coeffs`; those that measure the teacher
    first also write `calibrate` and read their curves from `self.artifact`.
    """

    #: whether d f/ds at s = t is the teacher's (x - D)/t when F is the teacher's own raw output.
    tangent: ClassVar[bool] = True

    def __init__(
        self,
        params: Any = None,
        *,
        sigma_data: float,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        super().__init__(params)
        if not 0 < sigma_min < sigma_max < math.inf or not 0 < sigma_data < math.inf:
            raise ConfigError(
                f"precond {self.name!r}: need 0 < sigma_min < sigma_max and sigma_data > 0,"
                f" got {sigma_min}, {sigma_max}, {sigma_data}"
            )
        self.sigma_data = float(sigma_data)
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)
        self.artifact: dict[str, Tensor] = {}

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """Return (skip, out[, shift]), float64, for t and s that broadcast, sigma_min <= s <= t."""
        raise NotImplementedError

    def denoiser_coeffs(self, t: Tensor) -> Coeffs:
        """Coefficients of the implied denoiser D(x, t) = x - t d f/ds at s = t.

        The default differentiates `coeffs`; a strategy with a closed form overrides it.
        """
        import torch

        with torch.enable_grad():
            t = t.detach()
            s = t.clone().requires_grad_()

            def slope(value: Tensor | None) -> Tensor:
                if value is None or not value.requires_grad:
                    return torch.zeros_like(t)
                return torch.autograd.grad(value.sum(), s, retain_graph=True)[0]

            skip, out, shift = self.coeffs(t, s)
            return Coeffs(
                1 - t * slope(skip),
                -t * slope(out),
                None if shift is None else -t * slope(shift),
            )

    @property
    def offset(self) -> Tensor | None:
        """The fixed tensor that `shift` multiplies, of the data's shape; None without one."""
        return self.artifact.get("offset")

    @classmethod
    def needs_calibration(cls) -> bool:
        """Whether this strategy measures the teacher before it can give coefficients."""
        return cls.calibrate is not Preconditioning.calibrate

    def calibrate(self, probe: Probe) -> dict[str, Tensor]:
        """Measure the teacher; return the tensors that `coeffs` reads from `self.artifact`.

        Called under `no_grad`. The result is stored by content and shared between seeds.
        """
        raise NotImplementedError

    def load(self, artifact: Mapping[str, Tensor]) -> Self:
        """Adopt a calibration made earlier; returns self."""
        self.artifact = dict(artifact)
        return self

    def to(self, device: Any) -> Self:
        """Move the calibration to a device; returns self."""
        return self.load({key: value.to(device) for key, value in self.artifact.items()})


class DenoiserForm(Preconditioning):
    """A strategy written on a denoiser: f = beta x + alpha D_theta, D_theta with EDM's inner map.

    skip = beta + alpha c_skip(t), out = alpha c_out(t). Subclasses write `outer`. With an
    `offset` m in the artifact the jump is written around it, f = m + beta (x - m) +
    alpha (D_theta - m), which adds the constant (1 - alpha - beta) m.
    """

    def outer(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, beta), float64, for noise levels that broadcast."""
        raise NotImplementedError

    def coeffs(self, t: Tensor, s: Tensor) -> Coeffs:
        """See `Preconditioning.coeffs`."""
        alpha, beta = self.outer(t, s)
        c_skip, c_out = edm_inner(t, self.sigma_data)
        shift = None if self.offset is None else 1 - alpha - beta
        return Coeffs(beta + alpha * c_skip, alpha * c_out, shift)


# ---------------------------------------------------------------------------------------------
# Data, teachers


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset is, known without reading it all: shape [C, H, W] or [d], classes, size.

    `size` is None for a distribution one can draw from without end; `digest` names the content.
    """

    shape: tuple[int, ...]
    digest: str
    classes: int = 0
    size: int | None = None


class Dataset(Plugin):
    """Clean data x_0, addressed by number so that order never depends on processes or resume."""

    spec: DatasetSpec

    def draw(self, seed: int, purpose: str, numbers: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return samples [B, *shape] float32 and one-hot labels [B, classes] (or None).

        `numbers` [B] int64 are global sample numbers: sample k of `purpose` is the same whoever
        asks for it, and whenever.
        """
        raise NotImplementedError

    def items(self) -> tuple[ndarray, ndarray | None]:
        """All samples of a finite set in stored order, float32 [N, *shape], and one-hot labels.

        numpy arrays, so that a teacher can be built on them without torch.

        Raises:
            ConfigError: this dataset has no end, or does not keep its samples.
        """
        raise ConfigError(f"dataset {self.name!r} is not a finite set: name an image set instead")


@dataclass(frozen=True)
class TeacherSpec:
    """What a teacher is: shape, noise range, sigma_data, classes, a digest of its content."""

    shape: tuple[int, ...]
    sigma_data: float
    digest: str
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    classes: int = 0


class Teacher(Plugin):
    """A denoiser D(x, sigma) ~ E[x_0 | x_0 + sigma eps = x] whose ODE is to be learnt."""

    spec: TeacherSpec
    #: whether `network()` gives a backbone; a teacher that is none gets one fitted to it.
    is_network: ClassVar[bool] = False

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return D [B, *shape] in the dtype of `x` for noise levels `sigma`, a scalar or [B]."""
        raise NotImplementedError

    def dataset(self) -> Dataset:
        """The data this teacher models, for grids that name no dataset of their own."""
        raise ConfigError(f"teacher {self.name!r} has no data of its own: name one in axes.dataset")

    def network(self) -> Backbone | None:
        """A fresh copy of the backbone whose raw output makes this denoiser, s branch included."""
        return None

    def to(self, device: Any) -> Self:
        """Move to a device; returns self."""
        return self


# ---------------------------------------------------------------------------------------------
# Objectives


class StudentLike(Protocol):
    """What an objective may ask of a student: jumps and a denoiser, never their coefficients."""

    def jump(self, x: Tensor, t: Tensor, s: Tensor, labels: Tensor | None = None) -> Tensor:
        """f(x, t, s), [B, *shape]; t and s are float64 [B]."""

    def denoise(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """The implied denoiser D(x, t), [B, *shape]."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a training batch.

    `numbers` are the global sample numbers behind `x0` [B, *shape]; `slots` their places in the
    global batch of this `step`, which index every random draw.
    """

    x0: Tensor
    labels: Tensor | None
    numbers: Tensor
    slots: Tensor
    step: int
    seed: int


class Objective(Plugin):
    """A loss, given as terms whose gradients the training loop combines.

    `terms` returns {name: loss}; with `adaptive` set, every term but the first is scaled so that
    its gradient at the network's last layer is as long as the first one's (VQGAN's rule, used by
    CTM), measured on the global batch.
    """

    adaptive: bool = False

    def terms(
        self, student: StudentLike, target: StudentLike, teacher: Teacher, batch: Batch
    ) -> Mapping[str, Callable[[], Tensor]]:
        """Return the loss terms as callables, each giving a scalar with its graph, mean over B."""
        raise NotImplementedError


# ---------------------------------------------------------------------------------------------
# Evaluation


class Extractor(Plugin):
    """Turns samples into feature vectors; `id` names everything that can change their values.

    Images arrive as uint8 [B, C, H, W], C = 1 or 3 (what to do with grey is the extractor's own
    affair), other data as float [B, d].
    """

    #: what happens to pixels before the first layer (`tf1-bilinear`, `pil-bicubic`, `native`, ...)
    preprocess: ClassVar[str] = "native"
    #: sha256 of the weights, or the beginning of it; empty where there are none
    digest: ClassVar[str] = ""
    #: length of a feature vector; None where it is that of the samples
    dim: ClassVar[int | None] = None
    #: whether it takes images alone
    images_only: ClassVar[bool] = False

    @property
    def id(self) -> str:
        """Name, revision, weights and preprocessing in one string, as it stands in the tables."""
        name = self.name if self.revision == 1 else f"{self.name}.r{self.revision}"
        return f"{name}@{self.digest[:8]}/{self.preprocess}" if self.digest else name

    def ready(self, *, allow_download: bool = False) -> Self:
        """Find the weights and check their hash, before anything is sampled; returns self.

        Raises:
            ConfigError: no weights, or not the right ones; the sentence says what to do.
        """
        return self

    def to(self, device: Any) -> Self:
        """Compute on a device; returns self."""
        return self

    def __call__(self, samples: Tensor) -> Tensor:
        """Return features [B, dim], floating, for samples [B, *shape]."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """Class logits [B, classes] for features [B, dim], for metrics that need a classifier.

        Raises:
            ConfigError: this extractor has no classifier whose logits would mean anything.
        """
        raise ConfigError(
            f"extractor {self.name!r} has no class logits: Inception Score needs --extractor"
            " inception, with the official weights"
        )


class Score(NamedTuple):
    """A metric's value, with the standard deviation of its estimate where it has one."""

    value: float
    std: float | None = None


class Metric(Plugin):
    """A number that says how good samples are.

    `needs` says what `compute` gets of generated and reference samples: "moments"
    (harness.evaluate.moments.Moments, enough for Fréchet distances and cheap to keep), "features"
    (all vectors), "logits" (of a classifier), or "trajectory" (the samples themselves and the
    teacher's own ODE solution from the same noise).
    """

    needs: ClassVar[str] = "features"
    lower_is_better: ClassVar[bool] = True

    def compute(self, generated: Any, reference: Any) -> float | Score:
        """Return the value for features [n, dim] against reference features [m, dim]."""
        raise NotImplementedError


# ---------------------------------------------------------------------------------------------
# Registration and creation

C = TypeVar("C", bound=type[Plugin])


def _decorator(kind: str, base: type[Plugin]) -> Callable[[str], Callable[[C], C]]:
    registry.bases[kind] = base

    def register(name: str) -> Callable[[C], C]:
        def add(cls: C) -> C:
            if not (isinstance(cls, type) and issubclass(cls, base)):
                raise ConfigError(f"{kind} {name!r}: {cls!r} is not a subclass of {base.__name__}")
            registry.add(kind, name, cls)
            return cls

        return add

    register.__doc__ = f"Class decorator: make a {base.__name__} known under a name."
    return register


register_precond = _decorator("precond", Preconditioning)
register_teacher = _decorator("teacher", Teacher)
register_objective = _decorator("objective", Objective)
register_dataset = _decorator("dataset", Dataset)
register_extractor = _decorator("extractor", Extractor)
register_metric = _decorator("metric", Metric)


def make_params(kind: str, name: str, params: Mapping[str, Any]) -> Any:
    """Validate parameters of a plugin against its `Params`.

    Raises:
        ConfigError: unknown plugin, unknown key (with the nearest one) or a value of wrong type.
    """
    from pydantic import ValidationError

    model = registry.get(kind, name).Params
    try:
        return model.model_validate(dict(params))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"unknown parameter{nearest(key, model.model_fields)}"
        raise ConfigError(f"{kind} {name!r}: {key or 'parameters'}: {what}") from None


def create(kind: str, name: str, params: Mapping[str, Any] | None = None, **context: Any) -> Any:
    """Make a plugin of any kind from its name and plain parameters."""
    return registry.get(kind, name)(make_params(kind, name, params or {}), **context)


def create_precond(
    name: str,
    *,
    sigma_data: float,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    **params: Any,
) -> Preconditioning:
    """Make a preconditioning, e.g. `create_precond("ctm", sigma_data=0.5, outer="variance")`."""
    context = {"sigma_data": sigma_data, "sigma_min": sigma_min, "sigma_max": sigma_max}
    made: Preconditioning = create("precond", name, params, **context)
    return made


def create_teacher(name: str, **params: Any) -> Teacher:
    """Make a teacher, e.g. `create_teacher("gmm", preset="ring")`."""
    made: Teacher = create("teacher", name, params)
    return made


def calibrate(
    precond: Preconditioning,
    teacher: Teacher,
    *,
    levels: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    dataset: Dataset | None = None,
    device: Any = "cpu",
) -> Preconditioning:
    """Measure `teacher` on its data and load the result into `precond`, which is returned.

    `levels` (default 120, uniform in -log sigma) and `samples` (default 4096 per level) override
    the strategy's own parameters. A closed-form strategy is returned as it is.
    """
    if not precond.needs_calibration():
        return precond
    import torch

    from harness.core.probe import Probe

    if levels is None:
        levels = getattr(precond.params, "levels", 120)
    if samples is None:
        samples = getattr(precond.params, "samples", 4096)
    probe = Probe(
        teacher,
        dataset if dataset is not None else teacher.dataset(),
        levels=levels,
        samples=samples,
        sigma_min=precond.sigma_min,
        sigma_max=precond.sigma_max,
        seed=seed,
        device=device,
    )
    with torch.no_grad():
        return precond.load(precond.calibrate(probe))


def list_preconds() -> list[str]:
    """Names of all preconditionings."""
    return registry.names("precond")


def list_teachers() -> list[str]:
    """Names of all teachers."""
    return registry.names("teacher")


def list_objectives() -> list[str]:
    """Names of all objectives."""
    return registry.names("objective")


def list_datasets() -> list[str]:
    """Names of all datasets."""
    return registry.names("dataset")


def list_extractors() -> list[str]:
    """Names of all feature extractors."""
    return registry.names("extractor")


def list_metrics() -> list[str]:
    """Names of all metrics."""
    return registry.names("metric")


def content_digest(content: Any, *, length: int = 16) -> str:
    """Hash of plain data through canonical JSON: the identity of parameters and specs."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:length]
