"""A GPU for who has none: tensors that say they are elsewhere, and compute on the CPU.

    with elsewhere():
        model.to(DEVICE)

Inside, whatever mixes them with tensors of the CPU is an error, as on a GPU, and so is reading
them without bringing them back. `CALLS` notes what such a device is told to do, and "WAIT" where it
would have to be waited for. torch's device "meta" lends its name, as no tensor of it ever has
numbers of its own.
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
    """A tensor elsewhere; `inner` has its numbers."""

    is_meta = False  # torch takes it for empty otherwise

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE,
        )  # fmt: skip

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
    """Computes on the CPU; the result is elsewhere if an argument is, or if it is told to be."""
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
    if not (stays or target == DEVICE):
        return result.clone() if name == "_to_copy" and remote else result
    result = tree_map_only(torch.Tensor, Remote, result)
    return return_and_correct_aliasing(function, args, kwargs, result) if remote else result


def waits(name, args):
    """Whether its result, or the size of its result, depends on numbers that are elsewhere."""
    masks = [x for x in args[1] if x is not None] if name in ("index", "index_put_") else []
    reads = name in ("_local_scalar_dense", "nonzero", "masked_select", "equal")
    return reads or any(mask.dtype == torch.bool for mask in masks)


def tensor(data, *args, device=None, make=torch.tensor, **kwargs):
    """`torch.tensor`, whose numbers no mode gets to see."""
    made = make(data, *args, **kwargs)
    return made if device is None else made.to(device)


def moved(module, device):
    """`Module.to`, which gives no parameter another class: new ones, shared where they were."""
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
    """Tensors may be elsewhere within; what torch does not have for such tensors is left out."""
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
