"""Types of the configuration file of `python -m harness teacher train --config`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from harness.api.plugin import PluginRef, Settings
from harness.config.reading import read_mapping, validate
from teachers.edm_format.config import Dhariwal, Song


class _Section(Settings):
    model_config = ConfigDict(protected_namespaces=())


class Recipe(_Section):
    """EDM's training (Karras et al. 2022, table 1 and appendix F.1); durations in images seen."""

    images: int = Field(ge=1)
    batch: int = Field(default=256, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    warmup_images: int = Field(default=100_000, ge=0, description="linear ramp of the rate")
    ema_halflife_images: int = Field(default=500_000, ge=1)
    ema_rampup: float = Field(default=0.05, gt=0, description="cap on half-life / images so far")
    P_mean: float = -1.2
    P_std: float = Field(default=1.2, gt=0)
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = Field(default=500, ge=1, description="steps")


class TeacherConfig(_Section):
    """A teacher to train: network, dataset and recipe."""

    network: Song | Dhariwal = Field(discriminator="model_type")
    sigma_data: float = Field(default=0.5, gt=0)
    dataset: PluginRef
    train: Recipe


def load_config(path: str | Path) -> TeacherConfig:
    """Read and validate a configuration.

    Raises:
        ConfigError: missing or malformed file, unknown key, wrong type.
    """
    data = read_mapping(
        Path(path), "a teacher's configuration is a mapping with network, dataset, train"
    )
    return validate(TeacherConfig, data, lambda _: str(path))
