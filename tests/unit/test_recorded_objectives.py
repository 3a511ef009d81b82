"""Losses and gradients of objectives against those that reference codes recorded, in float64."""

import math

import pytest
import torch

from harness.api import Batch, ConfigError, TeacherSpec, create, create_precond, create_teacher
from harness.backbones.mlp import MLP
from harness.config.grid import make_grid
from harness.config.matrix import expand
from harness.core.student import Student
from harness.objectives.consistency import lognormal, summed_distance, weights
from harness.runner.prepare import check_machine
from tests.cells import cell_of
from tests.unit.recorded import (
    Absolute,
    Head,
    MeanVelocity,
    Straight,
    Timestep,
    TrigFlow,
    batch_of,
    close,
    drawn,
    part,
    record,
    student_of,
    teacher_of,
)


@pytest.mark.parametrize("case", record("ect.npz"), ids=lambda c: f"stage{c['stage']}-c{c['c']}")
def test_ect(case, monkeypatch):
    """Of the code of Geng et al.; t is not truncated there."""
    k = case["k"] if case["adj"] == "sigmoid" else 0
    params = {"q": case["q"], "k": k, "b": case["b"], "c": case["c"], "double": 100}
    objective = create("objective", "ect", params)
    student, teacher, step = student_of(case), teacher_of(case), 100 * case["stage"]
    r = objective.params.nearer(case["t"], step, teacher.spec)
    assert torch.allclose(r, case["r"].clamp_min(teacher.spec.sigma_min), rtol=1e-12)
    objective.times = lambda u, step, spec: (case["t"], r)
    student.backbone.mask = case.get("dropout_mask")
    drawn(monkeypatch, time=torch.zeros(len(r), 1), noise=case["eps"])
    terms = objective.terms(student, student, teacher, batch_of(case, step))
    loss = terms["ect"]()
    assert loss.item() == pytest.approx(case["loss"].mean().item(), rel=1e-9)
    close(student, loss, case)


WEIGHTINGS = {"default": "gap", "sigma_sq": "snr"}
CASES = [case for case in record("cm_fastgen.npz") if not case["use_cd"]]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['weighting']}-{c['ratio']}")
def test_ect_with_truncated_times(case, monkeypatch):
    """Of FastGen's code for consistency training."""
    params = {
        "q": 1 / (1 - case["ratio"]),
        "c": case["huber_const"],
        "distance": "l2" if case["use_squared_l2"] else "pseudo-huber",
        "weighting": WEIGHTINGS[case["weighting"]],
    }
    objective, student = create("objective", "ect", params), student_of(case)
    t = lognormal(case["u_t"], case["P_mean"], case["P_std"], case["min_t"], case["max_t"])
    assert torch.allclose(t, case["t"], rtol=1e-12)
    r = objective.params.nearer(t, 0, teacher_of(case, sigma_min=case["min_r"]).spec)
    assert torch.allclose(r, case["r"], rtol=1e-12)
    objective.times = lambda u, step, spec: (t, r)
    drawn(monkeypatch, time=case["u_t"][:, None], noise=case["eps"])
    loss = objective.terms(student, student, teacher_of(case), batch_of(case))["ect"]()
    assert loss.item() == pytest.approx(case["loss_total"], rel=1e-9)
    close(student, loss, case)


def test_nodes_of_consistency_training_double():
    """N(k) of iCT's schedule, in eight stages of floor(total / 8) steps."""
    objective = create("objective", "ect", {"schedule": "ict", "total": 801})
    expected = [11, 11, 21, 41, 321, 1281, 1281]
    assert [objective.nodes(k) for k in (0, 99, 100, 299, 599, 700, 801)] == expected
    u, spec = torch.linspace(0.001, 0.999, 999).double(), teacher_of(CASES[0], 0.002).spec
    t, r = objective.times(u, 200, spec)
    assert sorted({*t.tolist(), *r.tolist()})[0] == 0.002
    assert (t > r).all()
    middle = (t * r).log().median() / 2
    assert float(middle) == pytest.approx(-1.1, abs=0.2)


@pytest.mark.parametrize("precond", ["ctm", "trigflow", "bcm"])
@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_scm(number, precond, monkeypatch):
    """Of FastGen's code, whose network is EDM's; `divide_x_0_spatial_dim` is a constant in lv."""
    case = record("scm_fastgen.npz")[number]
    params = {
        "velocity": "teacher" if case["use_cd"] else "data",
        "warmup": case["tangent_warmup_steps"],
        "c": case["tangent_warmup_const"],
        "norm": "rms" if case["g_norm_spatial_invariance"] else "l2",
        "prior": bool(case["prior_weighting_enabled"]),
    }
    objective, student = create("objective", "scm", params), student_of(case, precond=precond)
    teacher, batch = teacher_of(case), batch_of(case, case["iteration"])
    t = lognormal(case["u_t"], case["P_mean"], case["P_std"], case["min_t"], case["max_t"])
    assert torch.allclose(t, case["sigma"], rtol=1e-12)
    monkeypatch.setattr("harness.objectives.scm.lognormal", lambda *given: t)
    drawn(monkeypatch, time=case["u_t"][:, None], noise=case["eps"])
    shift = math.log(case["x"][0].numel()) if case["divide_x_0_spatial_dim"] else 0.0
    objective.weighting = Head(part(case, "net_"), student.conditioning, shift)
    loss = objective.terms(student, student, teacher, batch)["scm"]()
    assert loss.item() == pytest.approx(case["loss_mean"] + shift, rel=1e-9)
    close(student, loss, case, owned=[objective.weighting])


@pytest.mark.parametrize("number", range(5))
def test_scm_of_a_network_in_trigflow_form(number, monkeypatch):
    """Of a community implementation: training, and distillation from a network of that form."""
    case = record("scm_trigflow.npz")[number]
    head = f"job{case['distill']}_net_"
    params = {"velocity": "teacher" if case["distill"] else "data", "warmup": 1000, "prior": False}
    objective = create("objective", "scm", params)
    student = student_of(case, head, "trigflow", TrigFlow)
    teacher, t = teacher_of(case, network=TrigFlow), 0.5 * case["t"].tan()
    monkeypatch.setattr("harness.objectives.scm.lognormal", lambda *given: t)
    drawn(monkeypatch, time=t[:, None], noise=case["eps"])
    objective.weighting = Head(part(case, head), student.conditioning)
    loss = objective.terms(student, student, teacher, batch_of(case, case["step"]))["scm"]()
    assert loss.item() == pytest.approx(case["loss"].mean().item(), rel=1e-9)
    close(student, loss, case, owned=[objective.weighting])


MEAN_FLOWS = [(case, Straight) for case in record("meanflow.npz")]
MEAN_FLOWS += [(record("meanflow_fastgen.npz")[0], Absolute)]


@pytest.mark.parametrize(("case", "network"), MEAN_FLOWS)
def test_meanflow(case, network, monkeypatch):
    """Of the authors' code, and one of FastGen's whose network is told rho; both from data."""
    params = {
        "velocity": "data",
        "pairs": "sorted" if case.get("tr_sampler") == "v0" or network is Absolute else "clipped",
        "ratio": case.get("ratio", 0.75),
        "p": case.get("norm_p", 0.75),
        "eps": case.get("norm_eps", 1e-3),
        **{f"P_{k}": case[f"P_{k}"] for k in ("mean_t", "std_t", "mean_r", "std_r") if "u" in case},
    }
    objective = create("objective", "meanflow", params)
    student = student_of(case, precond=MeanVelocity(sigma_data=0.5), network=network)
    teacher = teacher_of(case | {"sigma_data": 0.5})
    t, s = case["t"] / (1 - case["t"]), case["r"] / (1 - case["r"])
    if "u" in case:
        wide = TeacherSpec(teacher.spec.shape, 0.5, "", 1e-9, 1e9)
        found = objective.levels(case["z_t"], case["z_r"], case["u"], wide)
        assert torch.allclose(torch.stack(found), torch.stack([t, s]), rtol=1e-9)
    objective.levels = lambda *given: (t, s)
    drawn(monkeypatch, time=t, end=t, noise=case["e"], equal_times=torch.zeros(len(t), 1))
    loss = objective.terms(student, student, teacher, batch_of(case))["meanflow"]()
    assert loss.item() == pytest.approx(case["loss_mean"], rel=1e-9)
    close(student, loss, case)


@pytest.mark.parametrize("precond", ["ctm", "trigflow", "bcm"])
def test_the_exact_flow_has_no_meanflow_loss(precond, monkeypatch):
    """Of Gaussian data, where F = 0 is the flow in TrigFlow's arc and is in no coefficient."""
    teacher = create_teacher("gmm", means=[[0.0, 0.0]], stds=[0.5])
    arc = create_precond("trigflow", sigma_data=0.5, step="arc")
    network = MLP(2, sigma_data=0.5, width=8, depth=1)
    torch.nn.init.zeros_(network.outlet.weight)
    torch.nn.init.zeros_(network.outlet.bias)
    x0, _ = teacher.dataset().draw(0, "x", torch.arange(64))
    batch = Batch(x0, None, torch.arange(64), torch.arange(64), 0, 0)
    losses = {}
    for name, made in (("arc", arc), (precond, create_precond(precond, sigma_data=0.5))):
        student = Student(network, made)
        terms = create("objective", "meanflow").terms(student, student, teacher, batch)
        losses[name] = terms["meanflow"]().item()
    assert losses["arc"] < 1e-3 * losses[precond]


@pytest.mark.parametrize("number", [0, 1, 3, 4])
def test_bcm(number, monkeypatch):
    """Of the authors' code, from data and by a teacher's step; the target has the same weights."""
    case = record("bcm.npz")[number]
    params = {
        "nodes": case["num_scales"],
        "path": "teacher" if case["use_teacher"] else "data",
        "weighting": "karras" if case["weight_schedule"] == "karras" else "gap",
    }
    objective = create("objective", "bcm", params)
    student, target = (student_of(case, precond="bcm", network=Timestep) for _ in "ab")
    target.backbone.requires_grad_(False)
    teacher = teacher_of(case, 0.002)
    if case["use_teacher"]:
        model = student_of(case, "teach_", "bcm", Timestep)
        end = torch.full_like(case["t"], 0.002)
        teacher.denoise = lambda x, t, labels: model.jump(x, t, end)
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    grid = objective.trained_times(teacher.spec).flip(0)
    assert torch.allclose(grid, case["ts_table"], rtol=1e-9)
    _, near, _ = objective.levels(u, u, teacher.spec)
    assert torch.allclose((near == grid[:, None]).double().mean(1), case["p_t"], atol=1e-3)
    k, share = case["idx_first"][0], case["p_t"]
    same = torch.full_like(u, float(share[:k].sum() + share[k] / 2))
    t, _, other = objective.levels(same, u, teacher.spec)
    assert (t == grid[k + 1]).all()
    law = (other == grid[:, None]).double().mean(1)
    assert torch.allclose(law, case["p_t3_first"], atol=1e-3)
    objective.levels = lambda *given: (case["t"], case["t2"], case["t3"])
    drawn(monkeypatch, time=u[:, None], end=u[:, None], noise=case["noise"])
    for network in (student.backbone, target.backbone):
        network.mask = case["dropout_mask"]
    loss = objective.terms(student, target, teacher, batch_of(case))["bcm"]()
    assert loss.item() == pytest.approx(case["loss"].mean().item(), rel=1e-9)
    close(student, loss, case)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_tcm(number, monkeypatch):
    """Of the authors' code, the second stage; shares of the boundary as they came out there."""
    case = record("tcm.npz")[number]
    at_end = case["is_boundary"].bool()
    params = {
        **{k: case[k] for k in ("q", "df", "ratio_limit", "c")},
        **{"transition": case["transition_t"], "mean": case["P_mean"], "std": case["P_std"]},
        **{"boundary": at_end.double().mean().item(), "boundary_weight": case["w_boundary"]},
        **{"switch": 1, "double": 100},
        "weighting": {"cout_sq": "c-out-squared", "sqrt": "sqrt-gap"}.get(case["weighting"], "gap"),
    }
    objective = create("objective", "tcm", params)
    student, objective.frozen = student_of(case), student_of(case, "stage1_")
    step, teacher = 100 * case["stage"] + 1, teacher_of(case)
    batch_index = torch.arange(1200)
    assert int(objective.at_boundary(batch_index).sum()) == pytest.approx(
        100 * at_end.sum().item(), abs=1
    )
    low, high = case["u_range"]
    u = (case["u_t"] - low) / (high - low)
    monkeypatch.setattr(
        type(objective), "at_boundary", lambda self, batch_index: at_end[batch_index]
    )
    t = objective.noisy_times(u, torch.arange(len(u)), teacher.spec)
    assert torch.allclose(t, case["t"], rtol=1e-7)
    assert torch.allclose(objective.params.nearer(t, step, teacher.spec), case["r"], rtol=1e-7)
    objective.noisy_times = lambda *given: case["t"]
    for network in (student.backbone, objective.frozen.backbone):
        network.mask = case["dropout_mask"]
    drawn(monkeypatch, noisy_time=u[:, None], noise=case["eps"])
    loss = objective.terms(student, student, teacher, batch_of(case, step))["tcm"]()
    assert loss.item() == pytest.approx(case["loss_total"], rel=1e-6)  # t' is t' + 1e-8 there
    close(student, loss, case)


@pytest.mark.parametrize("objective", ["cd", "ctm", "ect"])
def test_distances_and_weightings(objective):
    """At t = 0.25 and 2, sd = 0.5: numbers of `get_weightings` in CTM's code, which is CM's."""
    recorded = {
        "uniform": [1.0, 1.0],
        "snr": [16.0, 0.25],
        "snr1": [17.0, 1.25],
        "truncated-snr": [16.0, 1.0],
        "karras": [20.0, 4.25],
    }
    t, a = torch.tensor([0.25, 2.0]).double(), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    each = {"l1": [1.5, 0.5], "l2": [4.5, 0.5]}
    for weighting, expected in recorded.items():
        for distance, found in each.items():
            params = {"weighting": weighting, "distance": distance}
            made = create("objective", objective, params)
            mean = sum(w * d for w, d in zip(expected, found, strict=True)) / 2
            if objective == "ect":  # which sums over coordinates
                loss = weights(weighting, t, t, 0.5) * summed_distance(distance, a, 0 * a, 0.0) / 2
                assert loss.mean().item() == pytest.approx(mean)
            else:
                assert made.distance(a, 0 * a, t, 0.5).item() == pytest.approx(mean)


def refused(objective, precond="ctm", **sections):
    """Why a grid with this objective cannot run: of its first skipped cell, or of all of it."""
    grid = {
        "version": 1,
        "name": "x",
        "axes": {"precond": [precond, "ctm"], "teacher": ["gmm"], "objective": [objective]},
        "budgets": [100],
        **sections,
    }
    try:
        return expand(make_grid(grid, [], "grid.yaml")).skips[0].reason
    except ConfigError as error:
        return str(error)


def test_a_network_that_is_told_levels_in_steps_has_no_derivative(monkeypatch):
    monkeypatch.setattr(MLP, "c_noise", lambda self, t: (10 * t.log()).round().float())
    with pytest.raises(ConfigError, match="'scm' differentiates the student along t, and the"):
        cell_of("gmm", objective="scm", backbone={"width": 8})


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"ect": {"schedule": "ict"}}, "ict grows over `total` steps: say how many"),
        ({"ect": {"schedule": "ict", "total": 99}}, "its schedule ends at step 99, and budgets go"),
        ({"ect": {"total": 99}}, "total goes with schedule: ict"),
        ({"tcm": {"switch": 100}}, "its second stage begins at step 100, and budgets end at 100"),
        ({"tcm": {"switch": 9, "transition": 90}}, "transition: 90 is not between the teacher's"),
        ("ctm-gan", "has a discriminator that sees grey or RGB images, not samples of [2]"),
    ],
)
def test_what_cannot_be_trained_is_said_before(objective, told):
    assert told in refused(objective)


def test_a_preconditioning_that_is_not_tangent_is_skipped():
    assert refused("meanflow", "edm") == (
        "precond 'edm' is not tangent: at s = t its network does not give the teacher's velocity,"
        " which 'meanflow' needs"
    )


@pytest.mark.parametrize("precond", ["analytic", "arc", {"ctm": {"outer": "mixed"}}])
def test_a_preconditioning_without_jumps_towards_noise_is_skipped(precond):
    assert "is not defined for s > t (`Preconditioning.upward`), which 'bcm' needs" in refused(
        "bcm", precond
    )


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({}, "objective 'ctm-gan': extractor 'lite0-imagenet' needs the package"),
        ({"features": "raw"}, "extractor 'raw' has no feature maps for a discriminator: use"),
        ({"features": "no-such"}, "'no-such'"),
        ({"start": 100}, "its adversarial stage starts at step 100, and budgets end at 100"),
    ],
)
def test_a_discriminator_without_features_is_said_before(params, told, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *given: None)
    grid = {
        "version": 1,
        "name": "x",
        "axes": {"precond": ["ctm"], "teacher": ["unet"]},
        "budgets": [100],
        "evaluate": {"metrics": ["alignment"]},
    }
    grid["axes"]["objective"] = [{"ctm-gan": params}]
    with pytest.raises(ConfigError) as refusal:
        check_machine(None, expand(make_grid(grid, [], "grid.yaml")))
    assert told in str(refusal.value)


def test_compiled_code_is_not_differentiated():
    told = refused("scm", train={"compile": True})
    assert "objective 'scm': it differentiates the student along (x, t), which compiled" in told
