"""Checkpoints that survive a kill at any time: safetensors and JSON in a temporary folder, renamed.

No pickle is used. state.json holds the sha256 of every file and of its own content; a checkpoint
that does not match is skipped for the one before, with a warning in the log. Files of evaluation
weights hold their digest in their header.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from harness.digest import content_digest
from harness.errors import ArtifactError, ConfigError
from harness.store.files import write_atomic, write_json
from harness.store.run import average_name, without_average

log = logging.getLogger(__name__)
KEEP = 2


class HasState(Protocol):
    """The part of an optimizer, torch's or the harness's, that checkpoints use."""

    def state_dict(self) -> dict[str, Any]:
        """State by parameter index, and settings, in the layout of `torch.optim`."""

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""


class Companion(Protocol):
    """A module that is trained beside the network, with its optimizer."""

    @property
    def module(self) -> nn.Module:
        """The module."""

    @property
    def optimizer(self) -> HasState:
        """Its optimizer."""


@dataclass
class TrainingState:
    """All state of the training loop; random draws are counter-based and have none."""

    network: nn.Module
    target: nn.Module
    optimizer: HasState
    averages: Mapping[float, nn.Module] = field(default_factory=dict)
    owned: Mapping[str, Companion] = field(default_factory=dict)
    frozen: nn.Module | None = None
    step: int = 0
    seconds: float = 0.0


def save_checkpoint(folder: Path, state: TrainingState) -> Path:
    """Write the folder step-NNNNNNNN in `folder` atomically, and keep the newest `KEEP` of them."""
    final = folder / f"step-{state.step:08d}"
    temporary = folder / f".step-{state.step:08d}.{os.getpid()}.tmp"
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors, scalars = _flatten_optimizer(state.optimizer)
    files = {
        "network": state.network.state_dict(),
        "target": state.target.state_dict(),
        "optimizer": tensors,
        **{average_name(rate): each.state_dict() for rate, each in state.averages.items()},
    }
    if state.frozen:
        files["frozen"] = state.frozen.state_dict()
    others = {}
    for name, each in state.owned.items():
        files[f"module-{name}"] = each.module.state_dict()
        files[f"module-{name}-optimizer"], others[name] = _flatten_optimizer(each.optimizer)
    digests = {}
    for name, content in files.items():
        data = save(plain(content))
        digests[name] = hashlib.sha256(data).hexdigest()
        write_atomic(temporary / f"{name}.safetensors", data)
    meta = {"step": state.step, "seconds": state.seconds, "optimizer": scalars}
    if others:
        meta["modules"] = others
    digests["state"] = content_digest(meta, length=64, spaced=True)
    write_json(temporary / "state.json", {**meta, "sha256": digests})
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    for old in sorted(folder.glob("step-*"))[:-KEEP]:
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path, state: TrainingState, *, at_most: int) -> None:
    """Load the newest intact checkpoint up to step `at_most` into `state`; unchanged if none.

    A damaged checkpoint is reported in the log and the one before is used.

    Raises:
        ConfigError: the checkpoint lacks one of the averages or modules of `state`.
    """
    for path in sorted(folder.glob("step-*"), reverse=True):
        if int(path.name.removeprefix("step-")) > at_most:
            continue
        try:
            apply = _read(path, state)
        except ArtifactError as error:
            log.warning("%s; using an earlier one", error)
            continue
        apply()
        log.info("resumed from %s", path.name)
        return


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, C-contiguous and without shared memory, as safetensors requires.

    The originals may share memory (tied layers), have another layout (channels last) or be views.
    """
    return {
        key: value.detach()
        .cpu()
        .resolve_conj()
        .resolve_neg()
        .clone(memory_format=torch.contiguous_format)
        for key, value in tensors.items()
    }


def save_ema(path: Path, network: nn.Module) -> None:
    """Write the evaluation weights of a budget, for later evaluations without training."""
    weights = plain(network.state_dict())
    digest = hashlib.sha256(save(weights)).hexdigest()
    write_atomic(path, save(weights, metadata={"sha256": digest}))


def load_ema(path: Path, network: nn.Module) -> None:
    """Read weights written by `save_ema`, strictly.

    Raises:
        ArtifactError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("sha256")
        if digest not in (None, hashlib.sha256(save(weights)).hexdigest()):
            raise SafetensorError("it does not match its digest")
        network.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({str(error).splitlines()[0]}); delete it and run again:"
            " that budget will be trained once more"
        ) from None


def _read(path: Path, state: TrainingState) -> Callable[[], None]:
    """Read and verify everything first; the returned function then changes `state`."""
    try:
        meta = json.loads((path / "state.json").read_text())
        digests, files = meta.pop("sha256"), {}
        if digests.pop("state", None) not in (None, content_digest(meta, length=64, spaced=True)):
            raise ArtifactError(f"checkpoint {path}: state.json does not match its digest")
        for name, digest in digests.items():
            data = (path / f"{name}.safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != digest:
                raise ArtifactError(
                    f"checkpoint {path}: {name}.safetensors does not match its digest"
                )
            files[name] = load(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ArtifactError(f"checkpoint {path} is damaged ({error})") from None

    if lacking := [rate for rate in state.averages if average_name(rate) not in files]:
        raise ConfigError(without_average(path.parent.parent, lacking))
    expected = [f"module-{name}" for name in state.owned] + ["frozen"] * bool(state.frozen)
    for name in expected:
        if name not in files:
            raise ConfigError(
                f"checkpoint {path} was written without {name}, which the objective has now;"
                f" remove {path.parent.parent} to train from the start"
            )

    def apply() -> None:
        state.network.load_state_dict(files["network"])
        state.target.load_state_dict(files["target"])
        for rate, network in state.averages.items():
            network.load_state_dict(files[average_name(rate)])
        _restore_optimizer(state.optimizer, files["optimizer"], meta["optimizer"])
        if state.frozen:
            state.frozen.load_state_dict(files["frozen"])
        for name, each in state.owned.items():
            each.module.load_state_dict(files[f"module-{name}"])
            tensors = files[f"module-{name}-optimizer"]
            _restore_optimizer(each.optimizer, tensors, meta["modules"][name])
        state.step, state.seconds = int(meta["step"]), float(meta["seconds"])

    return apply


def _flatten_optimizer(optimizer: HasState) -> tuple[dict[str, Tensor], dict]:
    """Split an optimizer's state into tensors and JSON, whatever the optimizer."""
    content = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, entry in content["state"].items():
        for key, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                scalars[f"{index}.{key}"] = value
    return tensors, {"scalars": scalars, "groups": content["param_groups"]}


def _restore_optimizer(optimizer: HasState, tensors: dict[str, Tensor], plain: dict) -> None:
    state: dict[int, dict] = {}
    for name, value in {**tensors, **plain["scalars"]}.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": plain["groups"]})
