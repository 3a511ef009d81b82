"""Inception Score (Salimans et al. 2016), computed by torch-fidelity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from harness.api import ConfigError, Metric, Params, Score, register_metric

if TYPE_CHECKING:
    from torch import Tensor


@register_metric("inception-score")
class InceptionScore(Metric):
    """Inception Score exp E KL(p(y|x) | p(y)) with the official Inception; needs no reference."""

    needs = "logits"
    lower_is_better = False

    class Params(Params):
        """`splits`: number of parts over which mean and standard deviation are taken."""

        splits: int = Field(default=10, ge=1)

    def compute(self, generated: Tensor, reference: None = None) -> Score:
        """See `Metric.compute`; `generated` are logits [n, classes]."""
        from torch_fidelity.metric_isc import isc_features_to_metric

        if len(generated) < self.params.splits:
            raise ConfigError(
                f"inception-score needs {self.params.splits} samples or more, got {len(generated)}"
            )
        found = isc_features_to_metric(generated, splits=self.params.splits)
        return Score(found["inception_score_mean"], found["inception_score_std"])
