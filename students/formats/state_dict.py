"""A student's state dict (.pt) in the names of EDM's networks or of OpenAI's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.api import Params, StudentSpec
from harness.api.student import Ends
from teachers.edm_format.checkpoint import AGAIN, Checkpoint, file_digest, refusal
from teachers.edm_format.config import NetworkConfig
from teachers.edm_format.infer import infer_arguments
from teachers.openai_format.layout import Settings, open_openai
from teachers.openai_format.state_dict import precision_note, read_state_dict, without_prefix

SUFFIXES = (".pt", ".pth")


class StateDictParams(Params):
    """What a .pt does not tell; the first three are of OpenAI's layout alone.

    `resolution` follows from the channel multipliers of published networks; `sigma_min` and
    `sigma_max` are the range that the student was trained on.
    """

    resolution: int | None = Field(default=None, ge=4, le=4096)
    head_channels: int = Field(default=64, ge=1, le=64)
    attention_order: Literal["new", "legacy"] = "new"
    sigma_data: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    sigma_min: float = Field(default=0.002, gt=0, allow_inf_nan=False)
    sigma_max: float = Field(default=80.0, gt=0, allow_inf_nan=False)


def reads_s(path: Path) -> bool:
    """Whether the network of a .pt is told where its jump ends."""
    names, _ = without_prefix(read_state_dict(path))
    return "time_embed_s.0.weight" in names or "model.map_layer0_s.weight" in names


def open_state_dict(path: Path, params: StateDictParams) -> Checkpoint:
    """The configuration and tensors of a student's .pt.

    Raises:
        ConfigError: it is no such network; one sentence says what it seems to be.
    """
    tensors, notes = without_prefix(read_state_dict(path))
    if "model.map_layer0.weight" not in tensors:
        kept = {name: getattr(params, name) for name in ("resolution", "head_channels")}
        settings = Settings(
            **kept, attention_order=params.attention_order, sigma_data=params.sigma_data
        )
        return open_openai(path, settings)
    try:
        arguments = infer_arguments({name: value.shape for name, value in tensors.items()})
        arguments["sigma_data"] = params.sigma_data
        config, _ = NetworkConfig.from_arguments("EDMPrecond", arguments)
    except (ValueError, ZeroDivisionError) as error:
        raise refusal(path, f"does not hold a network of EDM's family ({error})", AGAIN) from None
    told = "model.map_layer0_s.weight" in tensors
    return Checkpoint(path, config, {**tensors}, (*notes, *precision_note(tensors)), reads_s=told)


def described(
    checkpoint: Checkpoint, name: str, ends: Ends, sigma_min: float, sigma_max: float
) -> StudentSpec:
    """What is known of a student once its file is open."""
    config = checkpoint.config
    side = config.img_resolution
    return StudentSpec(
        shape=(config.img_channels, side, side),
        sigma_data=config.inner.sigma_data,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        classes=config.label_dim,
        digest=file_digest(checkpoint.path),
        ends=ends,
        format=name,
        facts={},
    )
