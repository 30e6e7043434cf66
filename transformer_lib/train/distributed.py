"""One update made by several processes, each with its share of the batches.

The mathematics is one line: the loss of an update is a sum over target tokens divided by the
tokens of *all* ranks, so its gradient is the sum of what each rank computes for itself. How the
sum is made is a choice:

- **DDP** (DistributedDataParallel): every rank has the whole model, and the gradients are averaged
  while they are computed. Simple and fast, as long as model and optimiser fit on one device.
- **FSDP2** (`fully_shard`): every rank keeps 1/N of each weight, gradient and optimiser state. A
  layer's weights are gathered just before it computes and let go afterwards: less memory, more
  traffic.

A checkpoint holds whole tensors in either case, so it does not matter how many ranks wrote it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from transformer_lib.batching import Batch
from transformer_lib.train.ranks import Ranks, known_to_all
from transformer_lib.training import BatchLoss, StepResult, TrainConfig, batch_loss, train_step

__all__ = [
    "Sharding",
    "copy_weights",
    "cut_like",
    "in_one_piece",
    "is_cut",
    "random_states",
    "set_random_state",
    "share_out",
    "train_step_of_all",
]

Sharding = Literal["ddp", "fsdp"]


def share_out(model: nn.Module, ranks: Ranks, sharding: Sharding) -> nn.Module:
    """What is trained in the place of the model: its weights are the model's (DDP) or cut copies.

    Args:
        model: a `Transformer`, the same on every rank.

    Raises:
        ValueError: it should be cut up, but there are no processes to cut it up for.
    """
    alone = not dist.is_initialized()
    if alone and sharding == "fsdp":
        raise ValueError("fsdp shares a model out among processes: start them with torchrun")
    if alone:
        return model
    if sharding == "ddp":
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options = {
            "device_ids": [ranks.device] if ranks.device.type == "cuda" else None,
            "gradient_as_bucket_view": True,  # gradients lie where they are sent from: no copies
            buffers: False,  # no buffer ever changes: none has to be sent before a forward pass
        }
        return DistributedDataParallel(model, **options)
    from torch.distributed.device_mesh import init_device_mesh  # a second: only who cuts waits
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    cut = copy.deepcopy(model)
    # Layer by layer, so that the weights of only a few layers are whole at any time. What is left
    # is one last group: the embeddings with the output projection that may share their matrix.
    for layer in (*cut.encoder.layers, *cut.decoder.layers):
        fully_shard(layer, mesh=mesh)
    return fully_shard(cut, mesh=mesh)


def train_step_of_all(
    ranks: Ranks,
    shared: nn.Module,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    step: int,
    config: TrainConfig,
    scaler: torch.amp.GradScaler | None = None,
    loss_of: BatchLoss = batch_loss,
    place: str = "",
) -> StepResult:
    """`train_step` over the batches of all ranks, as if one process had them all.

    Args:
        shared: what `share_out` gave; `model` is it, or holds it.
        batches: this rank's; every rank has as many.
        place: where in the data we are, for the error message.

    Returns:
        Loss and number of tokens of all ranks together.

    Raises:
        FloatingPointError: loss or gradient is not finite on some rank. All ranks raise it, as
            all have the same gradients by then, and none has updated a weight.
    """
    n_here = sum(int((batch.tgt[:, 1:] != config.pad_id).sum()) for batch in batches)
    (n_tokens,) = ranks.sum(n_here)
    losses: list[Tensor] = []
    with contextlib.ExitStack() as unsynced:
        # Gradients need to travel once per update, with the last batch. DDP decides that in the
        # forward pass, so no_sync has to hold for forward and backward of all batches before.
        # FSDP exchanges after each: else whole gradients would pile up on every rank.
        if isinstance(shared, DistributedDataParallel):
            unsynced.enter_context(shared.no_sync())

        def noted(model: nn.Module, batch: Batch, config: TrainConfig) -> Tensor:
            if len(losses) == len(batches) - 1:
                unsynced.close()
            loss = loss_of(model, batch, config)
            losses.append(loss.detach())
            return loss

        try:
            # Both DDP and FSDP take the mean over the ranks: hence tokens per rank, not tokens.
            told = train_step(
                model, optimizer, batches, step, config, scaler, noted,
                divisor=n_tokens / ranks.world_size,
            )  # fmt: skip
        except FloatingPointError as error:
            wrong = not all(bool(loss.isfinite()) for loss in losses)
            found = ranks.gather([wrong, f"{error} ({place})"])
            text = next((text for wrong, text in found if wrong), found[0][1])
            raise known_to_all(FloatingPointError(text)) from error
    (loss,) = ranks.mean([told.loss], n_here)
    return told._replace(loss=loss, n_tokens=int(n_tokens))


def is_cut(value: Any) -> bool:
    """Is it a DTensor, of which every rank has a piece?"""
    return hasattr(value, "full_tensor")


def in_one_piece(value: Any) -> Any:
    """A state dict whose tensors are in main memory, and whole where they are cut over the ranks.

    All ranks have to call it, as each brings its piece.
    """
    if torch.is_tensor(value):
        return (value.full_tensor() if is_cut(value) else value).cpu()
    if isinstance(value, dict):
        return {key: in_one_piece(item) for key, item in value.items()}
    return [in_one_piece(item) for item in value] if isinstance(value, list) else value


def cut_like(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The inverse for an optimiser's state: each rank keeps its piece. Nothing is sent."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    if not any(map(is_cut, weights)):
        return state
    cut = {
        i: {name: _piece(value, weights[i]) for name, value in values.items()}
        for i, values in state["state"].items()
    }
    return state | {"state": cut}


def _piece(value: Any, like: Tensor) -> Any:
    """This rank's piece of a tensor that belongs to a weight; Adam's step count stays whole."""
    if not is_cut(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Weights from a model to the same model that is cut over the ranks, or back."""
    for new, old in zip(source.parameters(), target.parameters(), strict=True):
        old.copy_(_piece(new, old) if is_cut(old) else in_one_piece(new))


def random_states(ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """Where the random numbers of every rank stand, on rank 0's own terms where it is alone."""
    mine = {"rng": torch.get_rng_state()}
    if device.type == "cuda":
        mine["cuda_rng"] = torch.cuda.get_rng_state(device)
    if ranks.world_size == 1:
        return mine
    found = ranks.gather({name: state.tolist() for name, state in mine.items()})
    states = [
        {name: torch.tensor(state, dtype=torch.uint8) for name, state in theirs.items()}
        for theirs in found
    ]
    return states[0] | {"ranks": states}


def set_random_state(
    state: dict[str, Any], ranks: Ranks, device: torch.device, seed: int, step: int
) -> None:
    """Goes on with this rank's random numbers, or with new ones where their number has changed."""
    states = state.get("ranks", [state])
    if len(states) != ranks.world_size:
        if not ranks.is_main:
            return ranks.seed_dropout(seed, step)
        states = [state]
    mine = states[ranks.rank]
    torch.set_rng_state(mine["rng"])
    if "cuda_rng" in mine and device.type == "cuda":
        torch.cuda.set_rng_state(mine["cuda_rng"], device)
    return None
