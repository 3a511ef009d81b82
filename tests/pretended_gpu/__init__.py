"""A GPU for machines without one: it computes on the host, but its tensors keep to themselves.

What fails on a GPU because two tensors lie on different devices fails here as well, and the host
can be forbidden to wait for it. Its device is called `meta`, for which autograd needs no driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, HOST = torch.device("meta"), torch.device("cpu")
aten = torch.ops.aten
#: operations in which tensors of the host may meet those of the GPU
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {aten.copy_.default, aten._to_copy.default, aten.to.dtype_layout, aten.to.device}
#: operations whose result the host has to know
KNOWN_TO_HOST = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}


class OnGPU(Tensor):
    """A tensor of the pretended GPU; `values` is where it really lies."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> OnGPU:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=GPU,
            requires_grad=values.requires_grad,
        )
        made.values = values
        return made

    def __repr__(self) -> str:
        return f"OnGPU({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None) -> Any:
        return _compute(operation, args, kwargs or {}, may_wait=True)


class Placed(TorchDispatchMode):
    """While it is entered, whatever is asked of `GPU` is done, where a GPU would do it."""

    def __init__(self, may_wait: bool) -> None:
        super().__init__()
        self.may_wait = may_wait

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> Any:
        return _compute(operation, args, kwargs or {}, self.may_wait)


@contextmanager
def pretended_gpu(*, may_wait: bool = True) -> Iterator[torch.device]:
    """Within, tensors and modules can be sent to the device that is given.

    Args:
        may_wait: False: whatever makes the host wait for the device raises an AssertionError.
    """
    tolist, swaps = Tensor.tolist, torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        for owner, name, instead in (
            (torch, "tensor", _by_way_of_the_host(torch.tensor)),
            (torch, "as_tensor", _by_way_of_the_host(torch.as_tensor)),
            (Tensor, "tolist", lambda x: tolist(x.values if isinstance(x, OnGPU) else x)),
            (Tensor, "pin_memory", lambda x: x),
            (torch, "autocast", _plain_on_gpu(torch.autocast)),
        ):
            stack.enter_context(mock.patch.object(owner, name, instead))
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.enter_context(Placed(may_wait))
        yield GPU


def _by_way_of_the_host(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` fills a tensor where no operation is seen, and meta tensors not at all."""

    def made(data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        value = make(data, dtype=dtype)
        return value if device is None else value.to(device)

    return made


def _plain_on_gpu(autocast: Callable[..., Any]) -> Callable[..., Any]:
    """Torch knows no autocast for `meta`, not even one that is switched off."""

    def made(kind: str, *args: Any, **options: Any) -> Any:
        return nullcontext() if kind == GPU.type else autocast(kind, *args, **options)

    return made


def _compute(operation: Any, args: tuple, kwargs: dict, may_wait: bool) -> Any:
    leaves = tree_leaves((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    ours = [x for x in tensors if isinstance(x, OnGPU)]
    if operation is aten._has_compatible_shallow_copy_type.default:  # what Module.to asks
        return not ours
    target = next((x for x in leaves if isinstance(x, torch.device)), None)
    if target is None:  # operations on what is there, and those in place
        on_gpu = isinstance(args[0], OnGPU) if operation is aten.copy_.default else bool(ours)
    else:
        on_gpu = target == GPU
    strangers = [x for x in tensors if x.dim() and not isinstance(x, OnGPU)] if ours else []
    if strangers and operation not in COPIES:
        _refuse_strangers(operation, args[0], strangers[0], ours[0])
    if not may_wait and (ours or on_gpu) and tensors:
        _refuse_waiting(operation, args, kwargs, tensors[-1], on_gpu, bool(strangers))
    found = operation(*_on_host(args), **_on_host(kwargs))
    known = {id(x.values): x for x in ours}  # in-place operations give back what they were given

    def placed(x: Any) -> Any:
        if not (on_gpu and isinstance(x, Tensor)):
            return x
        return known[id(x)] if id(x) in known else OnGPU(x)

    return tree_map(placed, found)


def _refuse_strangers(operation: Any, first: Any, host: Tensor, ours: Tensor) -> None:
    """Tensors of the host may index those of a GPU, and nothing else."""
    if operation not in INDEXING or not isinstance(first, OnGPU):
        raise RuntimeError(
            f"{operation}: {tuple(host.shape)} lies on the host, {tuple(ours.shape)} on the GPU"
        )


def _refuse_waiting(
    operation: Any, args: tuple, kwargs: dict, source: Tensor, on_gpu: bool, mixed: bool
) -> None:
    moved = operation in COPIES and on_gpu != isinstance(source, OnGPU)
    queued = on_gpu and any(x is True for x in (kwargs.get("non_blocking"), *args[1:]))
    known = operation in KNOWN_TO_HOST or (operation in INDEXING and (mixed or _is_mask(args)))
    if known or (moved and not queued):
        raise AssertionError(f"the host waits for {operation}")


def _is_mask(args: tuple) -> bool:
    """Whether it is the values of an index that say how many rows are meant."""
    return any(x.dtype == torch.bool for x in tree_leaves(args[1]) if isinstance(x, Tensor))


def _on_host(arguments: Any) -> Any:
    def lowered(x: Any) -> Any:
        if isinstance(x, OnGPU):
            return x.values
        return HOST if isinstance(x, torch.device) else x

    return tree_map(lowered, arguments)
