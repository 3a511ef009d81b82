"""The sections of a grid that define the student and its training."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from harness.api import create, make_params
from harness.api.plugin import Settings
from harness.errors import ConfigError, nearest
from harness.registry import blaming, place, registry

#: settings of `train` that are no part of a run's identity
UNTOLD = ("eval_ema", "micro_batch", "checkpoint_every", "log_every", "compile", "channels_last")
DECAYS = ("lr_sqrt_from", "lr_zero_at")


class Section(Settings, BaseModel):  # named twice for ruff, which does not see what Settings is
    """Base of all sections; see `Settings` for what holds of them."""


class Train(Section):
    """How every cell is trained; the global batch does not depend on the number of processes.

    `compile` and `channels_last` change rounding alone: like the device and the number of processes
    they are written into a run's provenance and are no part of its identity. docs/speed.md says
    where they pay.
    """

    batch: int = Field(default=512, ge=1)
    lr: float = Field(default=4e-4, gt=0)
    optimizer: Literal["radam", "adam", "adamw"] = "radam"
    warmup: int = Field(default=0, ge=0, description="steps of linear learning-rate warm-up")
    lr_sqrt_from: int | None = Field(
        default=None, ge=1, description="step n after which the rate is lr sqrt(n/step), as EDM2's"
    )
    lr_zero_at: int | None = Field(
        default=None, ge=1, description="steps after which half a cosine has taken the rate to 0"
    )
    ema: float = Field(
        default=0.999, ge=0, lt=1, description="rate of the target's EMA; 0: the current weights"
    )
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        default="fp32", description="of every network in a step; evaluation is float32"
    )
    init: Literal["teacher", "random"] = "teacher"
    # not part of a run's identity
    eval_ema: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        default_factory=list, description="rates of the averages to evaluate; none: the target's"
    )
    micro_batch: int | None = Field(default=None, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=100, ge=1)
    compile: bool = False
    channels_last: bool = False

    @model_validator(mode="after")
    def _one_decay(self) -> Train:
        if self.lr_sqrt_from is not None and self.lr_zero_at is not None:
            raise ValueError("lr_sqrt_from and lr_zero_at are two schedules: leave one out")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that decide a run's numbers.

        `init_seeded` tells runs that draw random initial weights from their seed from earlier
        ones, which all drew the same. A decay that is not asked for is not told, so that runs from
        before there was one keep their ids.
        """
        unasked = {name for name in DECAYS if getattr(self, name) is None}
        told = self.model_dump(exclude={*UNTOLD, *unasked})
        return told | ({"init_seeded": True} if self.init == "random" else {})


class Backbone(Section):
    """The network fitted to a teacher that is not a network: architecture, parameters, and fit.

    `auto` is `mlp` for vectors and `unet`, a small DDPM++, for images; parameters of both may
    stand beside it.
    """

    model_config = ConfigDict(extra="allow")
    #: what `auto` is, by the number of axes of a sample
    AUTO: ClassVar[dict[int, str]] = {1: "mlp", 3: "unet"}

    name: str = "auto"
    fit_steps: int = Field(default=4000, ge=1)
    fit_batch: int = Field(default=1024, ge=1)
    fit_lr: float = Field(default=2e-3, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        """NAME, or {NAME: {key: value}}, as {name: NAME, key: value}."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1:
            ((name, params),) = value.items()
            if name not in cls.model_fields and isinstance(params, dict):
                return {"name": name, **params}
        return value

    @model_validator(mode="after")
    def _parameters_are_its_own(self) -> Backbone:
        names = [*self.AUTO.values()] if self.name == "auto" else [self.name]
        given = set(self.model_extra or {})
        try:
            known = {name: self._known(name) for name in names}
            if wrong := given.difference(*known.values()):
                first = min(wrong)
                fields = {*type(self).model_fields}.union(*known.values())
                raise ConfigError(f"{first}: unknown key{nearest(first, fields)}")
            for name in names:
                make_params("backbone", name, self._params(name))
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("backbone ")) from None
        return self

    def identity(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """The settings that decide the network for samples of `shape`, all in one mapping.

        Raises:
            ConfigError: it cannot be built for such samples.
        """
        name = self.AUTO.get(len(shape), "mlp") if self.name == "auto" else self.name
        cls = registry.get("backbone", name)
        with blaming("backbone", cls, "unfit"):
            made = create("backbone", name, self._params(name))
            reason = made.unfit(shape)
        if reason:
            raise ConfigError(
                f"backbone: {name!r} does not fit samples of shape {list(shape)}: {reason}"
            )
        fit = {key: getattr(self, key) for key in ("fit_steps", "fit_batch", "fit_lr")}
        told = {"name": name, **made.params.model_dump(mode="json"), **fit}
        return told if cls.revision == 1 else told | {"revision": cls.revision}

    def _params(self, name: str) -> dict[str, Any]:
        """What is given of an architecture's own parameters."""
        own = self._known(name)
        return {key: value for key, value in (self.model_extra or {}).items() if key in own}

    def _known(self, name: str) -> set[str]:
        """Names of an architecture's parameters."""
        cls = registry.get("backbone", name)
        own = set(cls.Params.model_fields)
        if taken := own.intersection(Backbone.model_fields):
            raise ConfigError(
                f"{name!r} ({place(cls)}): a parameter cannot be called {min(taken)}, which is the"
                " grid's own key there; rename it"
            )
        return own


class Student(Section):
    """How the student differs from its teacher's network with a zero-initialised branch for s.

    `dropout` is the student's alone; by default it is what the teacher's file says. `s_branch`:
    one vector added to the embedding of t, or, as in the reference code of CTM, an embedding of s
    of its own that every residual block reads. `s_init: reference` starts the whole branch of the
    latter at random, as that code does, from the run's seed; `zero` lets the student start as its
    teacher. `backbone` is a network of its own, fitted to the teacher's denoiser or random
    (`train.init`): the student then starts as its teacher only as well as that fit is.
    """

    dropout: float | None = Field(default=None, ge=0, lt=1)
    s_branch: Literal["shared", "per_block"] = "shared"
    s_init: Literal["zero", "reference"] = "zero"
    backbone: Backbone | None = Field(
        default=None, description="another network than that of a teacher that has one"
    )

    @model_validator(mode="after")
    def _random_start_of_what(self) -> Student:
        if self.s_init == "reference" and self.s_branch == "shared":
            raise ValueError(
                "s_init: reference is a start of the branch that the reference code has; write"
                " s_branch: per_block too, or s_init: zero"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """What is not the default, so that runs from before a setting existed keep their ids."""
        return self.model_dump(exclude_defaults=True, exclude={"backbone"})
