"""`transformer-lib translate`: lines in, lines out, in order."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformer_lib.cli.common import (
    as_utf8,
    check_alpha,
    choose_device,
    reserve_outputs,
    set_threads,
)
from transformer_lib.data.devices import keep_freed_memory
from transformer_lib.data.reading import NotFiniteError, blame_file, read_json
from transformer_lib.data.text import MAX_TEXT_BYTES, lines_of_file, stream_lines
from transformer_lib.decoding import Hypothesis
from transformer_lib.translate.translator import Translator, check_sentences, read_model
from transformer_lib.translate.unfamiliar import why_unfamiliar
from transformer_lib.vocab import Vocab

__all__ = ["translate"]

CHUNK = 1000  # lines that are translated together
SHOWN = 3  # lines unlike the training text that are named; the others are counted


def translate(
    model: str,
    sentences: tuple[str, ...],
    file: Path | None,
    beam: int,
    alpha: float,
    n_best: int,
    scores: bool,
    max_tokens: int | None,
    device: str,
    threads: int | None,
    attention: Path | None,
    force: bool,
) -> int:
    """Run the command; `commands.translate` has its arguments."""
    set_threads(threads)
    keep_freed_memory()
    check_alpha(alpha)
    if attention:
        from transformer_lib.translate.report import check_ending

        check_ending(attention, "a picture")
    if sentences and file:
        raise ValueError("give sentences or --file, not both")
    sentences = tuple(map(as_utf8, sentences))
    check_sentences(sentences)
    with reserve_outputs(attention, inputs=[file], force=force):
        translator, val_loss = read_model(
            model,
            lambda folder: (
                Translator.from_pretrained(folder, device=choose_device(device)),
                _validation_loss(folder),
            ),
        )
        doubts = Doubts(translator.src_vocab, val_loss)
        search = {"beam_size": beam, "alpha": alpha, "n_best": n_best, "max_tokens": max_tokens}
        lines = iter(sentences) if sentences else _lines(file)
        # a person who types wants an answer after every line
        at_once = 1 if not sentences and not file and sys.stdin.isatty() else CHUNK
        number = 0
        while chunk := list(itertools.islice(lines, at_once)):
            results = list(_translate_lines(translator, chunk, number, search, doubts))
            try:
                for score, text in itertools.chain.from_iterable(results):
                    print(f"{score:.4f}\t{text}" if scores else text)
                sys.stdout.flush()
            finally:  # also if nobody reads the lines any more
                if attention and number == 0:
                    _draw_attention(translator, chunk[0], results[0][0][1], attention)
            number += len(chunk)
        if number == 0:
            unwritten = f": {attention} was not written" if attention else ""
            _say(f"warning: there was no line to translate{unwritten}")
        doubts.summarize()
    return 0


class Doubts:
    """Warnings about lines that are unlike the training text: the first ones, then their number.

    Args:
        vocab: of the source.
        val_loss: of the model on validation, if it is known.
    """

    def __init__(self, vocab: Vocab, val_loss: float | None) -> None:
        self.vocab, self.val_loss, self.n_lines = vocab, val_loss, 0

    def look(self, i: int, line: str, best: Hypothesis) -> None:
        """Warn if the line is unlike the training text."""
        if reason := why_unfamiliar(self.vocab, line, best, self.val_loss):
            self.n_lines += 1
            if self.n_lines <= SHOWN:
                _warn(i, f"is unlike the training text, do not trust its translation ({reason})")

    def summarize(self) -> None:
        """Say how many more lines there were."""
        if self.n_lines > SHOWN:
            _say(f"warning: {self.n_lines - SHOWN} more lines are unlike the training text")


def _validation_loss(folder: Path) -> float | None:
    path = folder / "training.json"
    if not path.is_file():
        return None
    with blame_file(path):
        curve = read_json(path, {}).get("curve", [])
        losses = [line.get("val_loss") for line in curve]
        losses = [float(loss) for loss in losses if loss is not None]  # null is NaN or infinity
    return losses[-1] if losses else None


def _lines(file: Path | None) -> Iterator[str]:
    if not file:
        yield from stream_lines(sys.stdin.buffer, "standard input")
        return
    if file.is_file():  # not a pipe: read twice, so that what is wrong is told before the work
        for _ in lines_of_file(file, MAX_TEXT_BYTES):
            pass
    yield from lines_of_file(file, MAX_TEXT_BYTES)


def _translate_lines(
    translator: Translator,
    lines: list[str],
    before: int,
    search: dict[str, Any],
    doubts: Doubts,
) -> Iterable[list[tuple[float, str]]]:
    """Yield score and text of each line's n best; empty ones where there are fewer or none."""
    hypotheses = translator.hypotheses(
        lines, warn=lambda i, problem: _warn(before + i, problem), **search
    )
    for i, best in enumerate(hypotheses):
        if not best[0].finished:
            _warn(before + i, "reached the length limit, its translation has no end")
        if best[0].ids:
            doubts.look(before + i, lines[i], best[0])
        texts = [(hyp.score, translator.tgt_vocab.decode(hyp.ids)) for hyp in best]
        yield texts + [(0.0, "")] * (search["n_best"] - len(texts))


def _warn(i: int, problem: str) -> None:
    _say(f"warning: line {i + 1} {problem}")


def _say(message: str) -> None:
    print(message, file=sys.stderr)


def _draw_attention(translator: Translator, sentence: str, translation: str, path: Path) -> None:
    from transformer_lib.translate.report import draw_attention, save_picture

    if not translation:
        _warn(0, f"has no translation to draw: {path} was not written")
        return
    try:
        maps, sources, targets = translator.attention_maps(sentence, translation)
    except NotFiniteError:
        raise
    except ValueError as problem:  # the model has no positions for so many tokens
        _warn(0, f"cannot be drawn, {problem}: {path} was not written")
        return
    figure = draw_attention(
        maps.cross[-1, 0].mean(0),
        [*targets[1:], "<eos>"],
        sources,
        title="Where the last layer looks, mean of its heads",
        row_title="queries: predicted token",
        column_title="keys: source token",
    )
    save_picture(figure, path)
    _say(f"the attention of line 1; written to {path}")
