"""An optimiser besides the paper's: Muon for the matrices of the layers, Adam for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from transformer_lib.train.settings import OptimizerName
from transformer_lib.training import TrainConfig, make_optimizer

__all__ = ["MuonAndAdam", "check_optimizer", "choose_optimizer"]


class MuonAndAdam(torch.optim.Optimizer):
    """Muon for parameters that are matrices between hidden vectors, Adam for all others.

    Muon (Jordan et al., 2024) takes the momentum of the gradient and makes all its singular
    values about equal before it steps, so that no direction of a matrix is left behind. Its step
    is scaled to the size of Adam's (Liu et al., 2025): one learning rate serves both.

    Args:
        model: embeddings, output projection, biases and LayerNorms go to Adam.
        config: rate and Adam's settings.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if ".layers." in name and p.dim() == 2]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        super().__init__([*matrices, *others], {"lr": config.peak_rate})
        rate = {"lr": config.peak_rate}
        self.parts = [
            torch.optim.Muon(matrices, **rate, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.Adam(others, **rate, betas=config.betas, eps=config.eps, fused=True),
        ]
        self._share_groups()

    def _share_groups(self) -> None:
        """Let a rate set on this optimiser be that of its parts."""
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
    name: OptimizerName, model: nn.Module, config: TrainConfig
) -> torch.optim.Optimizer:
    """Return the paper's Adam, or Muon with Adam."""
    return MuonAndAdam(model, config) if name == "muon" else make_optimizer(model, config)


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raise unless every moment has its parameter's shape, which the fused kernels do not check."""
    for part in getattr(optimizer, "parts", [optimizer]):
        for parameter, state in part.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.dim() and value.shape != parameter.shape:
                    found, expected = list(value.shape), list(parameter.shape)
                    raise ValueError(f"{name} of the optimiser: expected {expected}, found {found}")
