"""Draw the film of notebook 07: attention while a model learns to copy, `python tools/film.py`.

Model, data and settings are those of the notebook, whose cells are run here. The GIF goes into the
notebook, as an attachment of the cell that shows it, and with --to into a file, too.
"""

import argparse
import ast
import base64
import contextlib
import io
import os
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image
from student_notebooks import ROOT

from transformer_lib.batching import epoch_batches
from transformer_lib.lessons.figures import (
    PALETTE,
    SEQUENTIAL,
    figure,
    name_axes,
    style,
    token_heatmap,
)
from transformer_lib.lessons.figures.colours import INK
from transformer_lib.lessons.figures.marks import level
from transformer_lib.lessons.figures.training import running_mean
from transformer_lib.training import make_optimizer, train_step

NOTEBOOK = ROOT / "notebooks" / "07_training_copy_task_and_translation.ipynb"
# imports, data, model, budget, lowest possible loss, cross-attention
CELLS = "n7c0bb6f9b n7aa8291da n77d305282 n721c1029d smoothing-floor n7f87af2e7".split()  # noqa: SIM905
TRAINING, FILM = "n71f9c711c", "1fe9094e"  # the cell that trains, and the one that shows the film
NAME = "attention-learns-to-copy.gif"
STEPS = [*range(0, 100, 20), *range(100, 240, 10), *range(240, 500, 20), *range(500, 901, 50)]
TITLE = "Learning to copy: attention becomes a diagonal"
SECONDS, LAST = 0.15, 3.0  # each frame, and the last one


def notebook_names():
    """Run the cells on which the film depends and return their names."""
    os.environ["TRANSFORMER_LIB_BUDGET"] = "quick"
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    settings = ast.parse(cells[TRAINING]).body
    settings = [ast.unparse(part) for part in settings if isinstance(part, ast.Assign)]
    source = [part for part in settings if part.startswith(("example =", "copy_config ="))]
    names = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec("\n".join([*(cells[id] for id in CELLS), *source]), names)
    return names


def record(names):
    """Train as the notebook does and return {step: attention map} and the losses."""
    model, config, steps = names["copy_model"](), names["copy_config"], names["COPY_STEPS"]
    maps, losses, epoch = {0: names["cross_attention"](model, names["example"])}, [], 0
    optimizer = make_optimizer(model.train(), config)
    while len(losses) < steps:
        for batch in epoch_batches(names["copy_train"], 700, seed=0, epoch=epoch):
            step = len(losses) + 1
            batch = batch.to(names["DEVICE"])
            losses.append(train_step(model, optimizer, batch, step, config).loss)
            if step in STEPS:
                maps[step] = names["cross_attention"](model, names["example"])
            if step == steps:
                break
        epoch += 1
    return maps, losses


@style()
def draw(step, attention, losses, words, floor):
    """Draw one frame: the attention at a step, and the losses up to it."""
    fig, (left, right) = figure(8.6, 4.2, ncols=2, title=TITLE, layout="constrained")
    fig.set(facecolor="white")
    look = {"vmin": 0.0, "vmax": 1.0, "cbar_label": "attention weight"}
    labels = {"row_label": "output: number to predict", "column_label": "input: number to copy"}
    token_heatmap(attention, words, words, title=f"step {step}", ax=left, **labels, **look)
    smooth = running_mean(losses, 10)
    steps = np.arange(len(smooth)) + len(losses) - len(smooth)
    right.set(xlim=(0, len(losses)), ylim=(0, 4))
    right.plot(steps, smooth, color=PALETTE[0], alpha=0.25)
    right.plot(steps[steps < step], smooth[steps < step], color=PALETTE[0])
    right.plot(
        step,
        smooth[max(0, min(step, len(losses) - 1) - steps[0])],
        "o",
        color=PALETTE[1],
        clip_on=False,
    )
    level(right, floor, "lowest possible")
    right.grid(True)
    name_axes(right, title="loss", x="step", y="nats per token")
    return fig


def film(maps, losses, words, floor):
    """Return the frames as one GIF."""
    frames = []
    for step, attention in maps.items():
        fig = draw(step, attention, losses, words, floor)
        fig.savefig(buffer := io.BytesIO(), dpi=100)
        frames.append(indexed(np.array(Image.open(buffer).convert("RGB"))))
    milliseconds = [int(1000 * SECONDS)] * (len(frames) - 1) + [int(1000 * LAST)]
    options = {"save_all": True, "append_images": frames[1:], "duration": milliseconds, "loop": 0}
    frames[0].save(buffer := io.BytesIO(), "GIF", **options)
    return buffer.getvalue()


def indexed(pixels):
    """Return an image in the same colors for all frames: the map's, and shades of the lines."""
    shades = [np.linspace(1, to_rgb(color), 24) for color in (INK, *PALETTE[:2])]
    palette = 255 * np.concatenate([*shades, SEQUENTIAL(np.linspace(0, 1, 128))[:, :3]])
    colors, places = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    nearest = np.linalg.norm(colors[:, None] - palette, axis=-1).argmin(1).astype(np.uint8)
    image = Image.fromarray(nearest[places].reshape(pixels.shape[:2]), "P")
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    return image


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--to", type=Path, help="write the film into this file as well")
    options = parser.parse_args(argv)
    names = notebook_names()
    maps, losses = record(names)
    words = [*map(str, names["example"][0][:-1]), "<eos>"]
    data = film(maps, losses, words, names["lowest_possible"](24))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.id == FILM]
    cell["attachments"] = {NAME: {"image/gif": base64.b64encode(data).decode()}}
    nbformat.write(notebook, NOTEBOOK)
    if options.to:
        options.to.write_bytes(data)
    print(f"{len(maps)} frames, {len(data) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
