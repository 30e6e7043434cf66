"""A stack of layers between an embedding and ten logits, trained on rows of digits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transformer_lib.embeddings import TokenEmbedding
from transformer_lib.positional import SinusoidalPositionalEncoding

WIDTH, BATCH = 32, 64


def train_stack(
    make_layer: Callable[[], nn.Module],
    n_layers: int,
    draw_task: Callable[[int], tuple[Tensor, Tensor]],
    steps: int = 400,
) -> list[float]:
    """Train a stack of fresh layers, print its accuracy on the last batch, return the losses.

    Args:
        make_layer: returns a layer over vectors of width 32.
        draw_task: returns this many rows of digits, and the digit to predict at each position.
    """
    torch.manual_seed(0)
    stack = [make_layer() for _ in range(n_layers)]
    bottom = TokenEmbedding(10, WIDTH), SinusoidalPositionalEncoding(WIDTH)
    model = nn.Sequential(*bottom, *stack, nn.Linear(WIDTH, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for step in range(steps):
        digits, answers = draw_task(BATCH)
        logits = model(digits)
        loss = F.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"\rstep {step} of {steps}", end="", flush=True)
    correct = (logits.argmax(-1) == answers).float().mean().item()
    print(f"\rafter {steps} steps: {correct:.0%} correct")
    return losses
