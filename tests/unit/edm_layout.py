"""Writes networks in the layout of EDM's published files, for tests: the reader must not need it.

Tensors go through torch's own pickling (the same nested legacy streams); modules become records of
`torch_utils.persistence._reconstruct_persistent_obj`, as EDM's persistence makes them.
"""

import copyreg
import io
import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

SOURCE = "raise SystemExit('the source in a checkpoint was run')"


def _fake_global(module: str, name: str):
    def stand_in(*arguments):
        raise AssertionError("tests never unpickle these")

    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    for part in (module.split(".")[0], module):
        sys.modules.setdefault(part, types.ModuleType(part))
    setattr(sys.modules[module], name, stand_in)
    return stand_in


class _Pickler(pickle.Pickler):
    def __init__(self, file, source: str, protocol: int = 4) -> None:
        super().__init__(file, protocol=protocol)
        self.source = source
        self.reconstruct = _fake_global("torch_utils.persistence", "_reconstruct_persistent_obj")

    def reducer_override(self, value):
        if not isinstance(value, nn.Module):
            return NotImplemented
        modules = {k: v for k, v in value._modules.items() if not isinstance(v, nn.Dropout)}
        state = {
            "training": False,
            "_parameters": OrderedDict(value._parameters),
            "_buffers": OrderedDict(value._buffers),
            "_non_persistent_buffers_set": set(),
            "_backward_hooks": OrderedDict(),
            "_modules": OrderedDict(modules),
            "skip_scale": np.float64(0.5),
        }
        if isinstance(value, nn.ModuleDict):
            return copyreg.__newobj__, (nn.ModuleDict,), state
        state |= {"_init_args": (), "_init_kwargs": getattr(value, "init_kwargs", {})}
        record = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": getattr(value, "class_name", type(value).__name__),
            "state": state | getattr(value, "more_state", {}),
        }
        return self.reconstruct, (record,)


class Precond(nn.Module):
    """The outer object of a file: `model`, its class name and its recorded arguments."""

    def __init__(self, class_name: str, model: nn.Module, init_kwargs, **more_state) -> None:
        super().__init__()
        self.class_name, self.model, self.init_kwargs = class_name, model, init_kwargs
        self.more_state = more_state


def write(path, ema, source: str = SOURCE, protocol: int = 4) -> None:
    """Write `ema` (a `Precond`, or any picklable thing) as a checkpoint at `path`."""
    with open(path, "wb") as file:
        _Pickler(file, source, protocol).dump({"ema": ema, "loss_fn": None, "augment_pipe": None})


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Perturb every parameter, so that zero-initialised layers do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            width = 0.05 if parameter.ndim == 1 else 0.3 / parameter[0].numel() ** 0.5
            parameter += width * torch.randn(parameter.shape, generator=generator)
    return net


def to_bytes(ema) -> bytes:
    """`write` into memory."""
    file = io.BytesIO()
    _Pickler(file, SOURCE).dump({"ema": ema})
    return file.getvalue()
