"""What the probes share: drawing ids, a quiet model, and the single comparisons."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4  # float32 rounding over a few layers stays below 1e-5; the bugs are above 1e-2


def draw_ids(model: nn.Module, src: Tensor | None, tgt: Tensor | None) -> tuple[Tensor, Tensor]:
    """The ids given, or random ones; the second source sentence is one token shorter."""
    config = getattr(model, "config", None)
    if (src is None or tgt is None) and config is None:
        if src is None:
            raise ValueError("the model has no config to draw ids from: pass src=… and tgt=…")
        return src, src
    draw = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    if src is None:
        src = torch.randint(4, config.src_vocab_size, (2, 6), generator=draw).to(device)
        src[1, -1] = config.pad_id
    if tgt is None:
        tgt = torch.randint(4, config.tgt_vocab_size, (2, 5), generator=draw).to(device)
    return src, tgt


def pad_id(model: nn.Module) -> int:
    return getattr(getattr(model, "config", None), "pad_id", 0)


@contextmanager
def quiet(model: nn.Module, *, training: bool) -> Iterator[None]:
    """The model in one mode, without gradients and without dropout's noise; then as before."""
    modes = {module: module.training for module in model.modules()}
    dropout = {nn.Dropout: "p", nn.MultiheadAttention: "dropout"}  # where torch keeps the rate
    rates = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for kind, name in dropout.items()
        if isinstance(module, kind)
    ]
    try:
        model.train(training)
        for module, name, _ in rates:
            setattr(module, name, 0.0)
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for module, name, rate in rates:
            setattr(module, name, rate)


def gap_between(a: Tensor, b: Tensor) -> float:
    """Largest difference; infinite where one side is not a number."""
    return float(torch.nan_to_num((a - b).abs(), nan=torch.inf).max())


def first_gap(whole: Tensor, steps: list[Tensor]) -> list[str]:
    start = 0
    for step in steps:
        end = start + step.size(1)
        if (gap := gap_between(whole[:, start:end], step)) > TOLERANCE:
            return [f"step {start} differs from the whole pass by {gap:.2g}"]
        start = end
    return []


def changed(model: nn.Module, tgt: Tensor, t: int) -> Tensor:
    """tgt with other tokens from position t on: its own, moved along the row by one value."""
    size = getattr(getattr(model, "config", None), "tgt_vocab_size", int(tgt.max()) + 1)
    changed = tgt.clone()
    changed[:, t:] = 4 + (changed[:, t:] - 3) % (size - 4)
    return changed


def padded(ids: Tensor, pad: int) -> Tensor:
    return torch.cat([ids, ids.new_full((len(ids), 3), pad)], dim=1)


def causal_maps(model: nn.Module, src: Tensor, tgt: Tensor, mode: str) -> list[str]:
    """The decoder's maps: no weight on the future, and no influence of it."""
    t = tgt.size(1) - 1
    before = model.attention_maps(src, tgt).decoder
    after = model.attention_maps(src, changed(model, tgt, t)).decoder
    problems = []
    if (future := float(before.triu(diagonal=1).max())) > TOLERANCE:
        problems.append(f"in {mode} mode, the maps put a weight of {future:.2g} on the future")
    if (gap := gap_between(before[..., :t, :], after[..., :t, :])) > TOLERANCE:
        problems.append(f"in {mode} mode, changing the last token moves earlier maps by {gap:.2g}")
    return problems


def padded_maps(
    model: nn.Module, short: tuple[Tensor, Tensor], long: tuple[Tensor, Tensor]
) -> list[str]:
    """The maps of real tokens: the same with more padding, layer by layer."""
    problems = []
    for kind, few, many in zip(
        ("encoder", "decoder", "cross"),
        model.attention_maps(*short),
        model.attention_maps(*long),
        strict=True,
    ):
        for layer, (a, b) in enumerate(zip(few, many, strict=True), start=1):
            if (gap := gap_between(a, b[..., : a.size(-2), : a.size(-1)])) > TOLERANCE:
                problems.append(f"padding moves the {kind} map of layer {layer} by {gap:.2g}")
                break
    return problems


def only_padding(model: nn.Module, src: Tensor, tgt: Tensor) -> list[str]:
    """A source without a single token: finite, and the same whatever its length."""
    longer = padded(src, int(src[0, 0]))
    outputs = [model.decode(tgt, model.encode(ids), ids) for ids in (src, longer)]
    if not all(bool(output.isfinite().all()) for output in outputs):
        return ["a source of padding only gives NaN"]
    if (gap := gap_between(*outputs)) > TOLERANCE:
        return [f"a source of padding only is attended to: its length moves outputs by {gap:.2g}"]
    return []


def half_precision(model: nn.Module, src: Tensor, tgt: Tensor) -> list[str]:
    """The same in float16, on a copy."""
    half = copy.deepcopy(model).half()
    try:
        output = half.decode(tgt, half.encode(src), src)
    except RuntimeError as error:
        if "overflow" in str(error):
            return [f"float16: {error}"]
        raise
    return [] if bool(output.isfinite().all()) else ["float16: outputs are not finite"]
