"""Small cells of every objective; run as a process, a few steps of each in 1 and 2 processes."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator, debug_launcher
from safetensors.torch import save_file

from harness.api import Objective, Trained, list_objectives, register_objective
from harness.train.optimizer import Optimizer
from harness.train.step import take_step
from tests.cells import cell_of

OWNER = "owner-of-modules"
#: what is changed of an objective's parameters, for more of its code or less of its time
CASES: dict[str, dict] = {
    "ctm": {},
    "cd": {},
    "ect": {"double": 50},
    "tcm": {"switch": 2, "q": 256},
    "ctm-gan": {"steps": 2, "start": 1, "features": "digits-cnn", "width": 4},
}
#: a network for images
SMALL = {"name": "unet", "channels": 8, "multipliers": [1], "blocks": 1, "attention": []}


class Owner(Objective):
    """Denoising with a learned weighting, and a critic of denoised samples from step 2 on."""

    def modules(self, spec):
        self.weighting, self.critic = torch.nn.Linear(1, 1), torch.nn.Linear(2, 1)
        critic = Trained(self.critic, by="critic", optimizer="adam", lr=1e-2, betas=(0.5, 0.9))
        return {"weighting": Trained(self.weighting), "critic": critic}

    def terms(self, student, target, teacher, batch):
        t = (batch.batch_index.double() / 8).exp()

        def denoised():
            return student.denoise(batch.x0 * (1 + t[:, None].float()), t)

        def denoise():
            log_var = self.weighting(student.conditioning(t)[:, None])[:, 0]
            error = (denoised() - batch.x0).square().mean(1)
            return (error * (-log_var).exp() + log_var).mean()

        terms = {"denoise": denoise}
        if batch.step >= 2:
            terms["adversary"] = lambda: -self.critic(denoised()).mean()
            terms["critic"] = lambda: self.critic(denoised().detach()).square().mean()
        return terms

    def evaluations(self, spec, step=0):
        return 3 if step < 2 else 7


register_objective(OWNER)(Owner)


def names():
    """All objectives of the harness, and one with modules of every kind.

    Of the adversarial ones that of `ctm`, which has all there is in them.
    """
    ours = [name for name in list_objectives() if name != OWNER]
    return [*(name for name in ours if not name.endswith("-gan") or name in CASES), OWNER]


def cell_for(name, precond="ctm", params=None, **sections):
    """A small cell on vectors, or on images for a discriminator."""
    images = name.endswith("-gan")
    return cell_of(
        {"empirical": {"dataset": {"name": "digits"}}} if images else "gmm",
        precond,
        {name: CASES.get(name, {}) if params is None else params},
        train={"batch": 32, "lr": 1e-3, "ema": 0.9},
        backbone=SMALL if images else {"width": 8, "depth": 1},
        budgets=[8],
        **sections,
    )


def work(out):
    """Three steps of each; the weights of the first process are kept."""
    torch.set_num_threads(1)
    accelerator, found = Accelerator(cpu=True), {}
    for name in names():
        cell = cell_for(name)
        optimizer = Optimizer("radam", cell.network.parameters(), 1e-3)
        for step in range(3):
            take_step(cell, optimizer, step, 16, accelerator)
        networks = [cell.network, *(each.module for each in cell.owned.values())]
        found[name] = torch.cat([p.detach().flatten() for n in networks for p in n.parameters()])
    if accelerator.is_main_process:
        save_file(found, Path(out) / f"{accelerator.num_processes}.safetensors")


if __name__ == "__main__":
    for world in (1, 2):
        debug_launcher(work, (sys.argv[1],), num_processes=world)
