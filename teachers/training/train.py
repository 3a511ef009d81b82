"""EDM's training of a denoiser (Karras et al. 2022), with Accelerate; resuming is bitwise exact."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from harness.api import ConfigError, Dataset, create
from harness.backbones.dropout import hold_draws
from harness.backbones.unet import UNetBackbone
from harness.core.random import normal
from harness.core.solver import per_sample
from harness.store.files import append_line
from harness.train.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from teachers.edm_format.config import NetworkConfig
from teachers.edm_format.network import build
from teachers.edm_format.safetensors_format import write_trained
from teachers.training.config import Recipe, TeacherConfig


def train_teacher(config: TeacherConfig, out: Path, processes: int = 1) -> Path:
    """Train for `config.train.images` images, then write `out` (.safetensors).

    Continues from the newest intact checkpoint in `<out>.training/`, which also has train.jsonl.

    Raises:
        ConfigError: dataset and network do not fit, or the batch is not divisible by `processes`.
        HarnessError: the loss is not finite.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: name the output with the ending .safetensors")
    recipe = config.train
    if recipe.batch % processes:
        raise ConfigError(f"train.batch: {recipe.batch} is not divisible by {processes} processes")
    dataset: Dataset = create("dataset", config.dataset.name, config.dataset.params)
    network = network_config(config, dataset)
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # other devices have no float64
        mixed_precision="bf16" if recipe.precision == "bf16" else "no",
    )
    torch.manual_seed(recipe.seed)
    backbone = build(network).to(accelerator.device)
    ema = copy.deepcopy(backbone).requires_grad_(False)
    optimizer = torch.optim.Adam(backbone.parameters(), lr=recipe.lr, betas=(0.9, 0.999))
    state = TrainingState(backbone, ema, optimizer)
    folder = out.with_suffix(".training")
    last = -(-recipe.images // recipe.batch)
    load_checkpoint(folder, state, at_most=last)
    _loop(state, recipe, dataset, accelerator, folder, last)
    if accelerator.is_main_process:
        described = {
            "dataset": config.dataset.model_dump(),
            "dataset_digest": dataset.spec.digest,
            "recipe": recipe.model_dump(),
            "images": state.step * recipe.batch,
        }
        write_trained(ema, network, out, described)
    accelerator.wait_for_everyone()
    return out


def network_config(config: TeacherConfig, dataset: Dataset) -> NetworkConfig:
    """The network's full configuration, with sizes and classes of the dataset.

    Raises:
        ConfigError: the data are not square images, or their side cannot be halved as often as the
            network does.
    """
    shape = dataset.spec.shape
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ConfigError(f"dataset {dataset.name!r} has samples {shape}; need [C, R, R] images")
    try:
        return NetworkConfig.validated(
            {
                "img_resolution": shape[1],
                "img_channels": shape[0],
                "label_dim": dataset.spec.classes,
                "inner": {"class_name": "EDMPrecond", "sigma_data": config.sigma_data},
                "model": config.network.model_dump(),
            }
        )
    except ValueError as error:
        raise ConfigError(f"network: {error}") from None


def denoising_loss(
    backbone: UNetBackbone, x0: Tensor, sigma: Tensor, eps: Tensor, labels: Tensor | None
) -> Tensor:
    """Mean over batch and pixels of (sigma^2 + sd^2)/(sigma sd)^2 (D(x_0 + sigma eps) - x_0)^2."""
    denoised = backbone.denoise(x0 + per_sample(sigma, x0) * eps, sigma, labels)
    var = backbone.sigma_data**2
    weight = (sigma**2 + var) / (sigma**2 * var)
    return (per_sample(weight, x0) * (denoised - x0).square()).mean()


def _loop(
    state: TrainingState,
    recipe: Recipe,
    dataset: Dataset,
    accelerator: Accelerator,
    folder: Path,
    last: int,
) -> None:
    device = accelerator.device
    parameters = list(state.network.parameters())
    share = recipe.batch // accelerator.num_processes
    batch_index = torch.arange(share, device=device) + accelerator.process_index * share
    state.network.train()
    total, since = torch.zeros((), device=device), 0
    started = time.perf_counter() - state.seconds
    bar = tqdm(total=last, initial=state.step, disable=not accelerator.is_main_process)
    while state.step < last:
        numbers = state.step * recipe.batch + batch_index
        hold_draws(state.network, recipe.seed, state.step, batch_index)
        x0, labels = dataset.draw(recipe.seed, "training data", numbers.cpu())
        x0, labels = x0.to(device), None if labels is None else labels.to(device)
        n = normal(recipe.seed, "teacher level", state.step, batch_index, (), torch.float64)
        sigma = (recipe.P_mean + recipe.P_std * n).exp()
        eps = normal(recipe.seed, "teacher noise", state.step, batch_index, x0.shape[1:])
        with accelerator.autocast():
            loss = denoising_loss(state.network, x0, sigma, eps, labels)
        accelerator.backward(loss)
        images = state.step * recipe.batch
        for parameter in parameters:
            if parameter.grad is not None and accelerator.num_processes > 1:
                parameter.grad = accelerator.reduce(parameter.grad, "mean")
        ramp = min(1.0, images / recipe.warmup_images) if recipe.warmup_images else 1.0
        state.optimizer.param_groups[0]["lr"] = recipe.lr * max(ramp, 1e-8)
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        halflife = min(recipe.ema_halflife_images, max(images, 1) * recipe.ema_rampup)
        keep = 0.5 ** (recipe.batch / max(halflife, 1e-8))
        with torch.no_grad():
            torch._foreach_lerp_(list(state.target.parameters()), parameters, 1 - keep)
        total, since = total + loss.detach(), since + 1
        state.step += 1
        bar.update()
        if state.step % recipe.checkpoint_every == 0 or state.step == last:
            state.seconds = time.perf_counter() - started
            _record(state, recipe, float(total / since), accelerator, folder)
            total, since = torch.zeros((), device=device), 0


def _record(
    state: TrainingState, recipe: Recipe, loss: float, accelerator: Accelerator, folder: Path
) -> None:
    if loss != loss or loss == float("inf"):
        raise ConfigError(f"the loss is not finite at step {state.step}: lower train.lr")
    if accelerator.is_main_process:
        save_checkpoint(folder, state)
        record = {"step": state.step, "images": state.step * recipe.batch, "loss": loss}
        append_line(folder / "train.jsonl", {**record, "seconds": round(state.seconds, 2)})
        tqdm.write(json.dumps(record))
    accelerator.wait_for_everyone()
