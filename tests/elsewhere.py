"""A stand-in for a GPU: tensors that claim to be on another device and compute on the CPU.

Inside `with elsewhere():`, mixing them with tensors of the CPU is an error, as on a GPU, and so is
reading them without copying them back. `CALLS` lists what such a device is told to do, with "WAIT"
where the CPU would have to wait for it. The device has the name of torch's "meta", whose own
tensors never hold numbers.
"""

import contextlib
import sys
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from transformer_lib.translate.search import beam_search, greedy_decode

PACKAGE = "transformer_lib"
DEVICE = "meta"
CALLS: list[str] = []
MAY_MIX = ("copy_", "_to_copy")  # from one device to the other


class Remote(torch.Tensor):
    """A tensor on the other device; `inner` has its numbers."""

    is_meta = False  # torch would take it for empty

    @staticmethod
    def __new__(cls, inner):
        options = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        options |= {"dtype": inner.dtype, "device": DEVICE}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, **options)

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        CALLS.append("WAIT")
        return self.inner.tolist()

    def new_tensor(self, data, dtype=None):
        return Remote(torch.tensor(data, dtype=dtype or self.dtype))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return call(function, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return call(function, args, kwargs or {})


def call(function, args, kwargs):
    """Compute on the CPU; the result is remote if an argument is, or if the call asks for it."""
    name = function.overloadpacket.__name__
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    remote = [x for x in tensors if isinstance(x, Remote)]
    if remote and name not in MAY_MIX:
        local = [tuple(x.shape) for x in tensors if not isinstance(x, Remote) and x.dim()]
        assert not local, f"{name}: tensors of {local} are on the CPU, others are not"
    target = str(kwargs["device"]) if kwargs.get("device") is not None else None
    if remote:
        CALLS.append("WAIT" if target == "cpu" or waits(name, args) else name)
    inner_args, inner_kwargs = tree_map_only(Remote, lambda x: x.inner, (args, kwargs))
    result = function(*inner_args, **inner_kwargs | ({"device": "cpu"} if target else {}))
    stays = isinstance(args[0], Remote) if name == "copy_" else remote and target != "cpu"
    if name == "_to_copy" and (stays or target == DEVICE) and result.dtype == torch.float64:
        raise TypeError("the device has no float64")  # as MPS
    if not (stays or target == DEVICE):
        return result.clone() if name == "_to_copy" and remote else result
    result = tree_map_only(torch.Tensor, Remote, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if remote else result


def waits(name, args):
    """True where the result, or its size, depends on remote numbers."""
    masks = [x for x in args[1] if x is not None] if name in ("index", "index_put_") else []
    reads = name in ("_local_scalar_dense", "nonzero", "masked_select", "equal")
    return reads or any(mask.dtype == torch.bool for mask in masks)


def tensor(data, *args, device=None, make=torch.tensor, **kwargs):
    """Replace `torch.tensor`, whose numbers no dispatch mode sees."""
    made = make(data, *args, **kwargs)
    return made if device is None else made.to(device)


def moved(module, device):
    """Replace `Module.to`, which keeps the class of parameters; shared ones stay shared."""
    new = {None: None}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, old in tensors.items():
                if old not in new:
                    with torch.no_grad():
                        new[old] = old.detach().to(device)
                    if isinstance(old, torch.nn.Parameter):
                        new[old] = torch.nn.Parameter(new[old], old.requires_grad)
                tensors[name] = new[old]
    return module


@contextlib.contextmanager
def elsewhere():
    """Let tensors be remote inside; leave out what torch does not have for such tensors."""
    CALLS.clear()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context
        patch(mock.patch.object(torch, "tensor", tensor))
        patch(mock.patch.object(torch.nn.Module, "to", moved))
        patch(mock.patch.object(torch, "inference_mode", torch.no_grad))
        patch(mock.patch.object(torch, "is_autocast_enabled", lambda *_: False))
        patch(mock.patch.object(torch, "autocast", lambda *_, **__: contextlib.nullcontext()))
        fused = f"{torch.optim.Optimizer.__module__}._get_fused_kernels_supported_devices"
        patch(mock.patch(fused, lambda: ["cpu", DEVICE]))
        for search in (greedy_decode, beam_search):  # decorated with the mode of inference
            plain = torch.no_grad()(search.__wrapped__)
            for module in [m for name, m in sys.modules.items() if name.startswith(PACKAGE)]:
                if vars(module).get(search.__name__) is search:
                    patch(mock.patch.object(module, search.__name__, plain))
        patch(Elsewhere())
        yield
