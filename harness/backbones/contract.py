"""Checks that an architecture keeps its contract: `check backbone NAME`.

from harness.backbones.contract import check_architecture
assert not [f for f in check_architecture(create("backbone", "mine"), teacher.spec) if not f.ok]
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from harness.api import Architecture, ConfigError, TeacherSpec
from harness.backbones.base import Backbone
from harness.contract import Finding
from harness.errors import HarnessError, described
from harness.registry import place

SAMPLES = 3
#: relative step of difference quotients, and how far these and derivatives may be apart
STEP, APART = 1e-3, 2e-2


def check_architecture(architecture: Architecture, spec: TeacherSpec) -> list[Finding]:
    """Build the network for samples of `spec` and run every check on it.

    A check that raises counts as failed. If `build` fails, only its finding is returned.
    """
    built: list[Backbone] = []

    def build() -> str:
        if reason := architecture.unfit(spec.shape):
            raise ConfigError(f"it does not fit samples of shape {list(spec.shape)}: {reason}")
        with torch.random.fork_rng(devices=[]):
            for seed in (0, 1):
                torch.manual_seed(seed)
                made: object = architecture.build(spec)
                if not isinstance(made, Backbone):
                    raise ConfigError(f"build gave {described(made)}, expected a Backbone")
                built.append(made)
        return f"{sum(p.numel() for p in built[0].parameters()):,} parameters"

    found = [_finding("build", build, type(architecture), "build")]
    if not built:
        return found
    network, other = built
    checks: list[Callable[[Backbone, TeacherSpec], str]] = [
        *(_shape, _samples, _s_branch, _last_layer, _derivative, _reset)
    ]
    for check in checks:
        name = check.__name__.removeprefix("_").replace("_", " ")
        run = functools.partial(check, network, spec)
        found.append(_finding(name, run, type(network), "network"))
    copies = functools.partial(_copies, network, other, spec)
    return [*found, _finding("copies", copies, type(network), "network")]


def _finding(name: str, check: Callable[[], str], cls: type, method: str) -> Finding:
    try:
        return Finding(name, True, check())
    except HarnessError as error:
        told, where = str(error), place(cls, method=method)
    except Exception as error:
        told, where = f"{type(error).__name__}: {error}", place(cls, error)
    return Finding(name, False, f"{told}, in {where}")


def _require(held: bool, sentence: str) -> None:
    if not held:
        raise ConfigError(sentence)


def _inputs(spec: TeacherSpec) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x_t, levels t and s, and one-hot classes of a few samples."""
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([spec.sigma_max, spec.sigma_data, 10 * spec.sigma_min], dtype=torch.float64)
    x = torch.randn(SAMPLES, *spec.shape, generator=generator)
    x = x * (t.square() + spec.sigma_data**2).sqrt().view(-1, *[1] * len(spec.shape)).float()
    labels = None
    if spec.classes:
        which = torch.arange(SAMPLES) % spec.classes
        labels = torch.nn.functional.one_hot(which, spec.classes).float()
    return x, t, t / 3, labels


def _awake(network: Backbone) -> Backbone:
    """A copy in eval mode with noise added to all weights, so that none is zero by design."""
    network = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def _shape(network: Backbone, spec: TeacherSpec) -> str:
    """Raw output is float32, finite and of the samples' shape."""
    x, t, s, labels = _inputs(spec)
    raw: object = _awake(network)(x, t, s, labels)
    _require(
        isinstance(raw, Tensor) and raw.shape == x.shape and raw.dtype == torch.float32,
        f"F is {described(raw)} and {getattr(raw, 'dtype', 'no dtype')}, expected float32"
        f" {list(x.shape)}",
    )
    assert isinstance(raw, Tensor)
    _require(bool(raw.isfinite().all()), "F is not finite")
    return f"float32 {list(raw.shape[1:])}"


def _samples(network: Backbone, spec: TeacherSpec) -> str:
    """A sample's output does not depend on what else is in the batch."""
    network = _awake(network)
    x, t, s, labels = _inputs(spec)
    with torch.no_grad():
        together = network(x, t, s, labels)
        alone = network(x[:1], t[:1], s[:1], None if labels is None else labels[:1])
    apart = float((together[:1] - alone).abs().max() / together.abs().max().clamp_min(1e-12))
    _require(apart < 1e-3, f"alone and in a batch a sample differs by {apart:.1e} of the output")
    return f"alone as in a batch within {apart:.0e}"


def _s_branch(network: Backbone, spec: TeacherSpec) -> str:
    """The output is independent of s at initialisation, and depends on s with other weights."""
    x, t, s, labels = _inputs(spec)
    fresh = copy.deepcopy(network).eval()
    fresh.reset_parameters(3)
    with torch.no_grad():
        for parameter in fresh.parameters():  # an output that starts at zero would hide the branch
            if not parameter.any():
                parameter.add_(0.1)
    fresh.zero_s_embedding()
    with torch.no_grad():
        apart = float((fresh(x, t, s, labels) - fresh(x, t, None, labels)).abs().max())
    _require(apart == 0, f"with s, F differs by {apart:.1e} from F without: the branch is not zero")
    network = _awake(network)
    with torch.no_grad():
        moved = float((network(x, t, s, labels) - network(x, t, t, labels)).abs().max())
    _require(moved > 0, "F does not depend on s: a student could not tell where its jump ends")
    return "silent at first"


def _last_layer(network: Backbone, spec: TeacherSpec) -> str:
    """`last_layer` is one of its parameters, and every output depends on it."""
    last: object = network.last_layer
    _require(
        any(last is parameter for parameter in network.parameters()),
        f"last_layer is {described(last)} that is none of its parameters",
    )
    x, t, s, labels = _inputs(spec)
    awake = _awake(network)
    (grad,) = torch.autograd.grad(
        awake(x, t, s, labels).square().sum(), awake.last_layer, allow_unused=True
    )
    _require(grad is not None and bool(grad.any()), "F does not depend on last_layer")
    return f"{list(network.last_layer.shape)}"


def _derivative(network: Backbone, spec: TeacherSpec) -> str:
    """Forward-mode derivatives along (x, t) match difference quotients."""
    network = _awake(network)
    x, t, s, labels = _inputs(spec)
    dx, dt = x.roll(1, -1) / 3, t / 3

    def at(step: float) -> Tensor:
        return network(x + step * dx, t + step * dt, s, labels)

    with torch.no_grad(), forward_ad.dual_level():
        raw = network(forward_ad.make_dual(x, dx), forward_ad.make_dual(t, dt), s, labels)
        found = forward_ad.unpack_dual(raw).tangent
        _require(found is not None, "F has no derivative along (x, t)")
        assert found is not None
        wanted = (at(STEP) - at(-STEP)) / (2 * STEP)
        apart = float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))
    _require(
        apart < APART, f"its forward-mode derivative and a difference are {apart:.1e} of it apart"
    )
    return f"as differences within {apart:.0e}"


def _reset(network: Backbone, spec: TeacherSpec) -> str:
    """Random weights are a function of their seed."""
    first, second, third = (copy.deepcopy(network) for _ in range(3))
    for each, seed in ((first, 0), (second, 0), (third, 1)):
        each.reset_parameters(seed)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    _require(all(torch.equal(a, b) for a, b in pairs), "the same seed gives two sets of weights")
    pairs = list(zip(first.parameters(), third.parameters(), strict=True))
    _require(any(not torch.equal(a, b) for a, b in pairs), "reset_parameters draws no weights")
    return "by seed"


def _copies(network: Backbone, other: Backbone, spec: TeacherSpec) -> str:
    """A second network with the weights of the first has the same output, as after loading."""
    network = _awake(network)
    other = copy.deepcopy(other).eval()
    other.load_state_dict(network.state_dict())
    x, t, s, labels = _inputs(spec)
    with torch.no_grad():
        same = torch.equal(other(x, t, s, labels), network(x, t, s, labels))
    _require(same, "its state_dict does not hold all that its output depends on")
    return "by state_dict"
