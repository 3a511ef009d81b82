"""Every registered preconditioning keeps the contract, with every value of its choices."""

import typing

import pytest
import torch

from harness.api import (
    Coeffs,
    DenoiserForm,
    Preconditioning,
    calibrate,
    create_precond,
    create_teacher,
)
from harness.api import list_preconds as names
from harness.contract import ContractError, check_precond, refuse_broken
from harness.registry import registry


def variants():
    """Each preconditioning by default, and once for every other value of every closed choice."""
    for name in names():
        yield name, {}
        for key, field in registry.get("precond", name).Params.model_fields.items():
            closed = typing.get_origin(field.annotation) is typing.Literal
            choices = typing.get_args(field.annotation) if closed else ()
            for value in (False, True) if field.annotation is bool else choices:
                if value != field.default:
                    yield name, {key: value}


@pytest.mark.parametrize(("name", "params"), list(variants()), ids=str)
def test_contract(name, params):
    teacher = create_teacher("gmm")
    precond = create_precond(name, sigma_data=teacher.spec.sigma_data, **params)
    calibrate(precond, teacher, levels=24, samples=1024)
    failed = [finding for finding in check_precond(precond) if not finding.ok]
    assert not failed, failed


class Faulty(Preconditioning):
    """Correct as ctm; each test breaks one thing."""

    fault = ""
    upward = True

    def coeffs(self, t, s):
        if self.fault == "differentiable":
            t = torch.tensor(t.tolist(), dtype=torch.float64)
        skip, out, _ = create_precond("ctm", sigma_data=self.sigma_data).coeffs(t, s)
        if self.fault == "boundary":
            skip = skip + 1e-9
        if self.fault == "finite":
            out = out / (t - 80)
        if self.fault == "dtype":
            out = out.float()
        if self.fault == "broadcast":
            skip = skip * torch.ones(3, 1, 1).double()
        if self.fault == "tangency":
            out = out * (1 + s / t) / 3 * 2
        if self.fault == "upward":
            skip = skip + (s - t).clamp_min(0)
        if self.fault == "deterministic":
            out = out * (1 + 1e-9 * torch.rand(()).double())
        return Coeffs(skip, out)

    def denoiser_coeffs(self, t):
        found = super().denoiser_coeffs(t)
        return found._replace(out=found.out * 1.01) if self.fault == "denoiser" else found


@pytest.mark.parametrize(
    "fault",
    [
        *("boundary", "finite", "dtype", "broadcast", "tangency", "denoiser", "deterministic"),
        *("differentiable", "upward"),
    ],
)
def test_the_contract_catches(fault):
    precond = Faulty(sigma_data=0.5)
    assert all(finding.ok for finding in check_precond(precond))
    precond.fault = fault
    assert fault in {finding.check for finding in check_precond(precond) if not finding.ok}


def test_a_preconditioning_without_derivatives_is_refused_where_they_are_asked_for():
    precond = Faulty(sigma_data=0.5)
    precond.fault = "differentiable"
    refuse_broken(precond)
    with pytest.raises(ContractError, match=r"breaks its contract \(differentiable: "):
        refuse_broken(precond, differentiates=True)


def test_what_a_preconditioning_lacks_is_said_once():
    class Typo(DenoiserForm):
        def oter(self, t, s):
            return 1 - s / t, s / t

    (finding,) = check_precond(Typo(sigma_data=0.5))
    assert not finding.ok
    assert "Typo must define `outer(self, t, s)`" in finding.detail
