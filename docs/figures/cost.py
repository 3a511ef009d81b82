"""What grids/cifar10.yaml costs, by counting: `python docs/figures/cost.py` prints the tables of
docs/paper.md.

Unit F is one forward of the student's network for one image; a backward is 2 F with the weights'
gradients and 1 F without; V is one forward of LPIPS's VGG16. Nothing here is a measured time.
"""

from __future__ import annotations

import torch
from tabulate import tabulate
from torch.utils.flop_counter import FlopCounterMode

from harness.config.schema import Grid
from harness.core.lpips import LPIPS
from teachers.edm_format.config import EDMPrecond, NetworkConfig, Song
from teachers.edm_format.network import build

#: EDM's conditional CIFAR-10 network (DDPM++)
NETWORK = NetworkConfig(
    img_resolution=32,
    img_channels=3,
    label_dim=10,
    model=Song(channel_mult=[2, 2, 2], dropout=0.13, augment_dim=9),
    inner=EDMPrecond(),
)
#: dense matrix peak of one GPU in FLOP/s, from NVIDIA's data sheets
PEAKS = {
    "A100 SXM, TF32": 156e12,
    "A100 SXM, bf16": 312e12,
    "H100 or H200 SXM, TF32": 495e12,
    "H100 or H200 SXM, bf16": 989e12,
}
SHARES = (0.2, 0.4)  # of the peak: an assumption
GPUS = 8


def draws(nodes: int, most: int) -> tuple[float, float]:
    """E[h] and P(s > sigma_min) of the CTM objective, by summing over h and i.

    P(h) ~ h on 1..most; i uniform on 0..N-1-h; j uniform on i+h..N-1 (harness/objectives/ctm.py).
    P(s < u) is the same: either way one value of j is left out.
    """
    last, total = nodes - 1, most * (most + 1) / 2
    inside = 0.0
    for h in range(1, most + 1):
        for i in range(last - h + 1):
            ends = last - (i + h) + 1  # how many j there are, all as likely
            inside += h / total / (last - h + 1) * (ends - 1) / ends
    return sum(h * h for h in range(1, most + 1)) / total, inside


def ctm_step(nodes: int, most: int) -> list[tuple[str, float]]:
    """Network evaluations in F per image of one CTM step, part by part."""
    h, inside = draws(nodes, most)
    return [
        ("teacher: h Heun steps, 2 evaluations each", 2 * h),
        ("target: jump u → s, where s < u", inside),
        ("target: projection s → sigma_min, where s > sigma_min", inside),
        ("estimate: jump t → s, forward and backward", 3.0),
        ("estimate: projection, forward and backward without weights", 2 * inside),
        ("denoising loss, forward and backward", 3.0),
        ("adaptive weight, read off gradients that exist already", 0.0),
    ]


def cd_step(nodes: int) -> float:
    """The same of one consistency-distillation step with one solver step."""
    return 2 + (nodes - 2) / (nodes - 1) + 3


def flops() -> tuple[float, float, float]:
    """FLOP of F and of V (a multiply-add is 2), and the student's parameters; on no device."""
    with torch.device("meta"):
        network, perceptual = build(NETWORK), LPIPS()
        network.net.add_s_embedding()
        network.net.s_embedding_per_block()
        image, level, label = torch.zeros(1, 3, 32, 32), torch.ones(1), torch.zeros(1, 10)
        with FlopCounterMode(display=False) as forward:
            network(image, level, level, label)
        with FlopCounterMode(display=False) as features:
            perceptual.features(image)
    weights = sum(parameter.numel() for parameter in network.parameters())
    return float(forward.get_total_flops()), float(features.get_total_flops()), float(weights)


def tables(grid: Grid) -> str:
    """All tables of the page, in markdown."""
    ctm = grid.axes.objective[0].params
    parts = ctm_step(ctm["nodes"], ctm["steps"])
    step = sum(value for _, value in parts)
    F, V, weights = flops()
    images = grid.budgets[-1] * grid.train.batch
    one_image = step * F + 3 * V
    training = images * one_image
    cd = images * (cd_step(ctm["nodes"]) * F + 3 * V)
    sampling = len(grid.budgets) * grid.evaluate.samples * sum(grid.evaluate.nfe) * F
    solution = grid.evaluate.samples * 2 * grid.evaluate.ode_steps * F
    calibration = 120 * 4096 * F
    cell = training + sampling
    rows = [
        ("one forward F", f"{F / 1e9:.1f} GFLOP", f"counted; {weights / 1e6:.1f} M parameters"),
        ("LPIPS's VGG16 at 224 x 224, V", f"{V / 1e9:.1f} GFLOP", "counted"),
        ("one training image", f"{one_image / 1e12:.2f} TFLOP", f"{step:.1f} F + 3 V"),
        ("images of a cell", f"{images / 1e6:.1f} M", "50,000 steps of 256"),
        ("training of a CTM cell", f"{training / 1e18:.1f} EFLOP", "the product"),
        ("training of a CD cell", f"{cd / 1e18:.1f} EFLOP", f"{cd_step(ctm['nodes']):.1f} F + 3 V"),
        (
            "samples of a cell",
            f"{sampling / 1e18:.2f} EFLOP",
            "6 budgets x 50,000 x (1+2+3+5+10) F",
        ),
        ("the teacher's ODE, once", f"{solution / 1e18:.2f} EFLOP", "50,000 x 128 F"),
        ("calibration of `analytic`, once", f"{calibration / 1e18:.3f} EFLOP", "120 x 4096 F"),
    ]
    hours = [
        [name, *(f"{cell / (GPUS * peak * share) / 3600:.1f}" for share in SHARES)]
        for name, peak in PEAKS.items()
    ]
    evaluations = [*parts, ("**together**", step)]
    return "\n\n".join(
        [
            tabulate(evaluations, ["per image of a step", "F"], floatfmt=".2f", tablefmt="github"),
            tabulate(rows, ["what", "how much", "from"], tablefmt="github"),
            tabulate(
                hours,
                [
                    "8 GPUs, one CTM cell",
                    *(f"hours at {share:.0%} of the peak" for share in SHARES),
                ],
                tablefmt="github",
                disable_numparse=True,
            ),
        ]
    )


if __name__ == "__main__":
    from pathlib import Path

    import yaml

    text = (Path(__file__).parents[2] / "grids" / "cifar10.yaml").read_text()
    print(tables(Grid.model_validate(yaml.safe_load(text))))
