"""One update made by several processes, each with its share of the batches.

The mathematics is one line: the loss of an update is a sum over target tokens divided by the
tokens of *all* ranks, so its gradient is the sum of the gradients that the ranks compute. There
are two ways to sum them:

- **DDP** (DistributedDataParallel): every rank has the whole model, and the gradients are averaged
  while they are computed. Simple and fast, as long as model and optimizer fit on one device.
- **FSDP2** (`fully_shard`): every rank keeps 1/N of each weight, gradient and optimizer state. A
  layer's weights are gathered just before it computes and freed afterwards: less memory, more
  traffic.

The workers of one machine (`workers`) need neither: each computes its part of every batch, and the
gradients are summed at the end of the update, since there is no idle core to send them meanwhile.
Where the system has it (Linux), they are summed in memory that the workers share.

A checkpoint holds whole tensors in any case, so the number of ranks may change between runs.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transformer_lib.batching import Batch
from transformer_lib.masks import teacher_forcing
from transformer_lib.train.losses import TrainingLoss
from transformer_lib.train.ranks import Ranks, known_to_all
from transformer_lib.train.settings import Sharding
from transformer_lib.training import StepResult, TrainConfig, count_targets, update

__all__ = [
    "copy_weights",
    "full_state_dict",
    "parallelize",
    "shard_optimizer_state",
    "train_step_on_all_ranks",
]


def parallelize(loss: TrainingLoss, ranks: Ranks, sharding: Sharding) -> nn.Module:
    """Wrap a loss and its model in DDP, or shard a copy of them with FSDP2.

    Args:
        loss: the same on every rank. A single process gets it back as it is.

    Raises:
        ValueError: sharding needs processes, and there is only this one.
    """
    alone = not dist.is_initialized()
    if alone and sharding == "fsdp":
        raise ValueError("fsdp shards a model among processes: start them with torchrun")
    if ranks.share_batches:
        for weight in loss.parameters():
            dist.broadcast(weight.detach(), 0)
    if alone or ranks.share_batches:
        return loss
    if sharding == "ddp":
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options = {
            "device_ids": [ranks.device] if ranks.device.type == "cuda" else None,
            "gradient_as_bucket_view": True,  # gradients lie where they are sent from: no copies
            buffers: False,  # no buffer ever changes: none has to be sent before a forward pass
        }
        return DistributedDataParallel(loss, **options)
    from torch.distributed.device_mesh import init_device_mesh  # takes a second to import
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    sharded = copy.deepcopy(loss)
    # Layer by layer, so that the weights of only a few layers are whole at any time. What is left
    # is one last group: the embeddings and the output projection, which may share their matrix.
    for layer in (*sharded.model.encoder.layers, *sharded.model.decoder.layers):
        fully_shard(layer, mesh=mesh)
    return fully_shard(sharded, mesh=mesh)


def train_step_on_all_ranks(
    ranks: Ranks,
    loss_of: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    step: int,
    config: TrainConfig,
    where: str = "",
    seeds: Sequence[int] = (),
) -> StepResult:
    """Make the update of `train_step` with the batches of all ranks.

    Args:
        loss_of: from `parallelize`, perhaps compiled.
        batches: this rank's; every rank has as many.
        where: position of these batches in the data, for the error message.
        seeds: of the dropout of each batch; without, the random numbers continue.

    Returns:
        Loss and number of tokens of all ranks together.

    Raises:
        ValueError, FloatingPointError: as `train_step`, on all ranks; no weight is changed.
    """
    n_tokens, divisor = sum(count_targets(batch, config.pad_id) for batch in batches), 1.0
    if not ranks.share_batches:
        # DDP and FSDP average over the ranks: so divide by the tokens per rank
        (n_tokens,) = ranks.sum(n_tokens)
        divisor = n_tokens / ranks.world_size
    optimizer.zero_grad()
    total: float | Tensor = 0.0
    for i, batch in enumerate(batches):
        if seeds:
            torch.manual_seed(seeds[i])
        with _unsynced(loss_of) if i + 1 < len(batches) else contextlib.nullcontext():
            loss = loss_of(batch.src, *teacher_forcing(batch.tgt))
            (loss / divisor).backward()
        total += loss.detach()
    here = float(total)
    if ranks.share_batches:
        n_tokens, loss = sum_gradients(loss_of, ranks, n_tokens, here)
    else:
        (loss,) = ranks.sum(here)
    if n_tokens == 0:
        raise known_to_all(ValueError("nothing to learn from: no target token"))
    mean = loss / n_tokens
    try:
        return StepResult(mean, int(n_tokens), *update(loss_of, optimizer, mean, step, config))
    except FloatingPointError as error:
        places = ranks.gather([not math.isfinite(here), where])
        where = next((place for failed, place in places if failed), places[0][1])
        raise known_to_all(FloatingPointError(f"{error} ({where})")) from error


def sum_gradients(
    loss_of: nn.Module, ranks: Ranks, n_tokens: int, loss: float
) -> tuple[float, float]:
    """Replace every gradient of a summed loss by that of the mean loss of all workers.

    The order of the sums never changes, so that a run that resumes is equal to the bit. DDP groups
    the gradients in another way after the first step.

    Args:
        n_tokens, loss: of this worker's part.

    Returns:
        Number of tokens, and summed loss, of all workers.
    """
    weights = [weight for weight in loss_of.parameters() if weight.grad is not None]
    grads = [weight.grad.flatten() for weight in weights]
    if ranks.memory:
        size = sum(map(len, grads))  # a row for each worker, and one for the mean
        rows = ranks.memory.region(ranks.world_size + 1, size, dtype=grads[0].dtype)
        torch.cat(grads, out=rows[ranks.rank])
        n_tokens, loss = ranks.sum(n_tokens, loss)  # when all have written
        mine = rows.tensor_split(ranks.world_size, dim=1)[ranks.rank]
        torch.sum(mine[:-1], 0, out=mine[-1]).div_(max(n_tokens, 1))
        ranks.sum(0)  # when all have summed; faster than a barrier
        whole = rows[-1].clone()
    else:
        whole = torch.cat(grads)
        dist.all_reduce(whole)
        n_tokens, loss = ranks.sum(n_tokens, loss)
        whole /= max(n_tokens, 1)
    parts = whole.split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.grad = part.view_as(weight)
    return n_tokens, loss


def _unsynced(loss_of: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Let DDP send gradients only with the last batch of an update.

    FSDP sends them after each batch, because whole gradients would otherwise pile up.
    """
    inner = getattr(loss_of, "_orig_mod", loss_of)  # inside torch.compile's wrapper
    ddp = isinstance(inner, DistributedDataParallel)
    return inner.no_sync() if ddp else contextlib.nullcontext()


def is_sharded(value: Any) -> bool:
    """True for a tensor of which this rank holds a shard."""
    return hasattr(value, "full_tensor")


def full_state_dict(value: Any) -> Any:
    """Return a nested state with whole tensors in main memory; all ranks have to call it."""
    if torch.is_tensor(value):
        return (value.full_tensor() if is_sharded(value) else value).cpu()
    if isinstance(value, dict):
        return {key: full_state_dict(item) for key, item in value.items()}
    return [full_state_dict(item) for item in value] if isinstance(value, list) else value


def shard_optimizer_state(
    state: dict[str, Any], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Return this rank's shards of a whole optimizer state: the inverse of `full_state_dict`."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not any(map(is_sharded, weights)):
        return state
    shards = {
        i: {name: _shard(value, weights[i]) for name, value in values.items()}
        for i, values in state["state"].items()
    }
    return state | {"state": shards}


def _shard(value: Any, like: Tensor) -> Any:
    """Return this rank's shard of a tensor shaped like a weight; Adam's step count stays whole."""
    if not is_sharded(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copy weights between a model and its sharded twin, in either direction."""
    for new, old in zip(source.parameters(), target.parameters(), strict=True):
        old.copy_(_shard(new, old) if is_sharded(old) else full_state_dict(new))
