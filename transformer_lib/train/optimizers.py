"""An optimizer besides the paper's: Muon for the matrices of the layers, Adam for the rest."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from transformer_lib.train.ranks import ALONE, Ranks
from transformer_lib.train.settings import OptimizerName
from transformer_lib.training import TrainConfig, make_optimizer

__all__ = ["MuonAndAdam", "check_state", "choose_optimizer"]

ADAMS = {"step", "exp_avg", "exp_avg_sq"}
PLAIN = torch.float32, torch.strided


class BatchedMuon(torch.optim.Muon):
    """torch's Muon, to the bit, in about half the time: matrices of one shape are stacked.

    Workers that share their batches share this work too: each orthogonalises some matrices.

    Args:
        ranks: the processes; each keeps the whole state.
    """

    def __init__(self, matrices: list[nn.Parameter], ranks: Ranks, **options: Any) -> None:
        super().__init__(matrices, **options)
        self.ranks = ranks

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take one step with every matrix that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight.grad)
            grads = [weight.grad for weight in weights]
            momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            changes = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov's
            stacks: dict[Any, list[int]] = defaultdict(list)
            for i, weight in enumerate(weights):
                stacks[tuple(sorted(weight.shape))].append(i)
            for shape, numbers in stacks.items():
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))  # of the size of Adam's
                wide = [c.T if len(c) > c.size(1) else c for c in map(changes.__getitem__, numbers)]
                for i, change in zip(numbers, self._orthogonal(wide, group), strict=True):
                    tall = len(weights[i]) > weights[i].size(1)
                    weights[i].add_(change.T if tall else change, alpha=-rate)

    def _orthogonal(self, changes: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        """Return the stacked matrices with singular values of about 1, by Newton and Schulz."""
        ranks = self.ranks if self.ranks.share_batches else ALONE
        each = -(-len(changes) // ranks.world_size)
        shape, kind = (ranks.world_size * each, *changes[0].shape), {"dtype": torch.bfloat16}
        shared = ranks.memory
        done = shared.region(*shape, **kind) if shared else changes[0].new_zeros(shape, **kind)
        parts = done.split(each)
        if mine := changes[ranks.rank * each :][:each]:
            x = torch.stack(mine).bfloat16()
            x = x / x.norm(dim=(1, 2), keepdim=True).clamp(group["eps"])
            a, b, c = group["ns_coefficients"]
            for _ in range(group["ns_steps"]):
                gram = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
            parts[ranks.rank][: len(mine)] = x
        if shared:
            ranks.sum(0)  # wait until all have written
        elif ranks.world_size > 1:
            dist.all_gather(list(parts), parts[ranks.rank].clone())
        return done[: len(changes)].to(changes[0].dtype)


class MuonAndAdam(torch.optim.Optimizer):
    """Muon for parameters that are matrices between hidden vectors, Adam for all others.

    Muon (Jordan et al., 2024) takes the momentum of the gradient and makes all its singular
    values about equal before it steps, so that no direction of a matrix is left behind. Its step
    is scaled to the size of Adam's (Liu et al., 2025): one learning rate serves both.

    Args:
        model: embeddings, output projection, biases and LayerNorms go to Adam.
        config: rate and Adam's settings.
        ranks: the processes that train together.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if ".layers." in name and p.dim() == 2]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        super().__init__([*matrices, *others], {"lr": config.peak_rate})
        rate = {"lr": config.peak_rate}
        self.parts = [
            BatchedMuon(matrices, ranks, **rate, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.Adam(others, **rate, betas=config.betas, eps=config.eps, fused=True),
        ]
        self._share_groups()

    def _share_groups(self) -> None:
        """Let a rate set on this optimizer be that of its parts."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Take one step of both."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()


def choose_optimizer(
    name: OptimizerName, model: nn.Module, config: TrainConfig, ranks: Ranks = ALONE
) -> torch.optim.Optimizer:
    """Return the paper's Adam, or Muon with Adam."""
    return MuonAndAdam(model, config, ranks) if name == "muon" else make_optimizer(model, config)


def check_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return a saved state for this optimizer to load: its moments, with the settings of now.

    Raises:
        ValueError: a moment is not like its weight, which the fused kernels do not check, or holds
            numbers that no training gives.
    """
    if parts := getattr(optimizer, "parts", None):
        return {"parts": [*map(check_state, state["parts"], parts)]}
    names = {"momentum_buffer"} if isinstance(optimizer, torch.optim.Muon) else ADAMS
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for i, saved in state["state"].items():
        if saved.keys() != names:
            raise ValueError(f"the optimizer keeps {sorted(names)}, found {sorted(saved)!r:.100}")
        for name, value in saved.items():
            expected = torch.Size() if name == "step" else weights[i].shape
            found = getattr(value, "shape", type(value).__name__)
            if not torch.is_tensor(value) or found != expected:
                message = f"expected {[*expected]}, found {found!s:.100}"
                raise ValueError(f"{name} of the optimizer: {message}")
            plain = (value.layout, value.device.type) == (PLAIN[1], "cpu")
            if not plain or value.dtype not in (PLAIN[0], weights[i].dtype):
                message = f"{value.dtype}, {value.layout}, {value.device}"
                raise ValueError(f"{name} of the optimizer is {message}")
            least = -math.inf if name in ("exp_avg", "momentum_buffer") else 0
            if not value.isfinite().all() or value.min() < least:
                raise ValueError(f"{name} of the optimizer holds impossible numbers")
        moments[i] = {name: value.contiguous() for name, value in saved.items()}
    return {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}
