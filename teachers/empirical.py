"""The ideal denoiser of a finite dataset, smoothed by a Gaussian kernel, in closed form.

For data x_1..x_n blurred by N(0, h^2), D(x, t) = sum_i w_i [x_i + h^2/(h^2 + t^2) (x - x_i)] with
w = softmax_i(-|x - x_i|^2 / (2 (h^2 + t^2))) (Karras et al. 2022, appendix B.3, for h = 0). With
h = 0 its ODE reproduces the data; with h > 0 it samples a density around them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from harness.api import (
    ConfigError,
    Dataset,
    Params,
    PluginRef,
    Teacher,
    TeacherSpec,
    content_digest,
    create,
    register_teacher,
)

if TYPE_CHECKING:
    from torch import Tensor

#: entries of the table of distances held at once: 64 MiB in float64
MOST_ENTRIES = 2**23


class EmpiricalParams(Params):
    """Parameters of the empirical teacher.

    - `dataset`: a finite dataset; `max_items`: largest number of its items used, evenly spaced;
    - `bandwidth`: h in the data's units;
    - `sigma_data`: measured on the data if not given, which decodes them on creation.

    Items are float64 (8 bytes per value), because at t = 0.002 squared distances in float32 are
    wrong by whole nats.
    """

    dataset: PluginRef
    bandwidth: float = Field(default=0.0, ge=0)
    max_items: int = Field(default=10_000, ge=1)
    sigma_data: float | None = Field(default=None, gt=0)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)


@register_teacher("empirical")
class EmpiricalTeacher(Teacher):
    """The ideal denoiser of a finite dataset, smoothed by a Gaussian, in closed form.

    With labelled data the weights w are over the items of the given label.

    Raises:
        ConfigError: the dataset is unknown, or not finite.
    """

    Params = EmpiricalParams

    def __init__(self, params: Any = None) -> None:
        if params is None:
            raise ConfigError("teacher 'empirical': dataset: name a finite dataset, e.g. digits")
        super().__init__(params)
        self._data: Dataset = create("dataset", params.dataset.name, params.dataset.params)
        data = getattr(self._data, "spec", None)
        if data is None or data.size is None:
            raise ConfigError(
                f"teacher 'empirical': dataset {params.dataset.name!r} is not a finite set"
            )
        chosen = params.model_dump(exclude={"dataset"})
        self.spec = TeacherSpec(
            shape=data.shape,
            sigma_data=params.sigma_data or self._measure(),
            digest=content_digest(["empirical", data.digest, chosen], length=64),
            sigma_min=params.sigma_min,
            sigma_max=params.sigma_max,
            classes=data.classes,
        )
        self._tensors: dict[Any, tuple[Tensor, Tensor, Tensor | None]] = {}

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """See `Teacher.denoise`; exact, computed in float64, in blocks of rows to save memory."""
        import torch

        items, squares, item_labels = self._constants(x.device)
        sigma = torch.as_tensor(sigma, device=x.device).double().expand(len(x))
        rows = max(1, MOST_ENTRIES // len(items))
        parts = []
        for start in range(0, len(x), rows):
            here = slice(start, start + rows)
            flat, variance = x[here].flatten(1).double(), sigma[here, None].square()
            kernel = self.params.bandwidth**2
            total = (kernel + variance).clamp_min(1e-30)
            # |x|^2 is the same for all items: softmax does not see it
            logits = (flat @ items.T - squares / 2) / total
            if labels is not None and item_labels is not None:
                alike = labels[here].double() @ item_labels.T > 0.5
                alike = alike | ~alike.any(1, keepdim=True)  # a label without items means all
                logits = logits.masked_fill(~alike, -torch.inf)
            mean = logits.softmax(1) @ items
            parts.append(mean + kernel / total * (flat - mean))
        return torch.cat(parts).reshape(x.shape).to(x.dtype)

    def dataset(self) -> Dataset:
        """The data themselves, without the blur."""
        return self._data

    def _chosen(self) -> Any:
        """Indices of the items used, evenly spaced, so that all classes occur if sorted."""
        import numpy as np

        size = self._data.spec.size
        count = min(size, self.params.max_items)
        return np.arange(count) * size // count

    def _measure(self) -> float:
        """Standard deviation of the blurred distribution, root mean variance over coordinates."""
        import numpy as np

        values = self._data.items()[0][self._chosen()].astype(np.float64)
        per_pixel = values.var(0).mean()
        return float(np.sqrt(per_pixel + self.params.bandwidth**2))

    def _constants(self, device: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """Items float64 [n, d], their squared lengths [n], labels float64 [n, classes]."""
        import torch

        if device not in self._tensors:
            values, labels = self._data.items()
            chosen = self._chosen()
            items = torch.from_numpy(values[chosen]).to(device).flatten(1).double()
            kept = None
            if labels is not None:
                kept = torch.from_numpy(labels[chosen]).to(device).double()
            self._tensors[device] = items, items.square().sum(1), kept
        return self._tensors[device]
