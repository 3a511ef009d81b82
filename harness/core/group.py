"""The processes that work on one cell together, as far as calibration needs to know them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from torch import distributed


@dataclass(frozen=True)
class Group:
    """This process's place among `size` that do the same; by default it is alone."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Self:
        """The default process group of torch.distributed if one was started, else alone."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def gather(self, share: list[Any]) -> list[Any]:
        """The lists of all processes, one after the other, in each of them."""
        if self.size == 1:
            return share
        shares: list[Any] = [None] * self.size
        distributed.all_gather_object(shares, share)
        return [item for part in shares for item in part]

    def tell(self, value: Any = None) -> Any:
        """What the first process says, in each of them."""
        if self.size == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said, src=0)
        return said[0]
