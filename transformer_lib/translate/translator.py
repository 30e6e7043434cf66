"""A model and its vocabularies as one thing that turns sentences into sentences."""

from __future__ import annotations

import bisect
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from transformer_lib.batching import pad
from transformer_lib.config import is_whole
from transformer_lib.data.devices import choose_device
from transformer_lib.data.files import (
    MANIFEST,
    CheckpointError,
    check_folder,
    check_name,
    list_checkpoints,
    write_folder,
)
from transformer_lib.data.reading import (
    check_finite,
    load_vocab,
    load_weights,
    read_config,
    read_json,
    weight_problems,
)
from transformer_lib.data.text import is_list
from transformer_lib.decoding import Hypothesis
from transformer_lib.model import AttentionMaps, Transformer
from transformer_lib.translate.inference import (
    PlainDecoder,
    decoder_for,
    in_evaluation,
    map_threads,
)
from transformer_lib.translate.search import beam_search, check_search, greedy_decode
from transformer_lib.vocab import Vocab

EXTRA = 50  # a translation may be this many tokens longer than its source (section 6.1)
FILES = ("config.json", "model.safetensors", "source.vocab", "target.vocab")
SURROGATE = re.compile("[\ud800-\udfff]")
T = TypeVar("T")
Warn = Callable[[int, str], Any]  # receives the index of a sentence and what is wrong with it


def warn_of_sentence(i: int, problem: str) -> None:
    """Warn, through Python's warnings, about a sentence that is left empty or left out."""
    warnings.warn(f"sentence {i + 1} {problem}", stacklevel=3)


class Translator:
    """Sentences in, translations out, in the same order.

    Args:
        model: a trained `Transformer`.
        src_vocab: the source language's vocabulary.
        tgt_vocab: the target language's; left out only where the model has a shared vocabulary.

    Raises:
        ValueError: a vocabulary's size is not the one the model was built for, or the target's
            is left out although the model has two.
    """

    def __init__(
        self, model: Transformer, src_vocab: Vocab, tgt_vocab: Vocab | None = None
    ) -> None:
        self.model, self.src_vocab = model, src_vocab
        self.tgt_vocab = src_vocab if tgt_vocab is None else tgt_vocab
        found = len(self.src_vocab), len(self.tgt_vocab)
        expected = model.config.src_vocab_size, model.config.tgt_vocab_size
        if found != expected:
            raise ValueError(f"vocabularies of {found} ids, but the model was built for {expected}")
        if tgt_vocab is None and not model.config.shared_vocabulary:
            raise ValueError("this model has two vocabularies: give tgt_vocab, too")

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return self.model.output_projection.weight.device

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Return source ids, each ending in `<eos>`, as in training."""
        check_sentences(sentences)
        return [self.src_vocab.encode(sentence, eos=True) for sentence in sentences]

    def hypotheses(
        self,
        sentences: Sequence[str],
        *,
        beam_size: int = 4,
        alpha: float = 0.6,
        n_best: int = 1,
        max_tokens: int | None = None,
        warn: Warn = warn_of_sentence,
        scores: bool = True,
    ) -> list[list[Hypothesis]]:
        """Return the n best translations of every sentence as ids with their scores.

        Their texts differ, however they are split into tokens. There may be fewer than n where
        the search reaches its length limit.
        On a CPU, each of torch's threads decodes a batch of its own. An empty sentence gets n empty
        hypotheses, and so does one with more tokens than the model has positions, with a warning.

        Args:
            beam_size, alpha, n_best: as in `beam_search`.
            max_tokens: most source ids that are decoded together, padding included. Left out:
                4,096 on a GPU; on a CPU at most 7,000 and fewer for models wider than 128, half of
                that with a beam, so that the threads share the work.
            warn: receives the index of each sentence that is too long, and the reason.
            scores: as in `greedy_decode`; a beam always has them.

        Raises:
            ValueError: such a search is impossible, or an item is not a text.
            NotFiniteError: the model computes NaN.
        """
        if max_tokens is not None and not (is_whole(max_tokens) and max_tokens >= 1):
            raise ValueError(f"max_tokens must be a whole number of at least 1, got {max_tokens!r}")
        check_search(n_best, beam_size, alpha, self.model.config.tgt_vocab_size)
        on_cpu = self.device.type == "cpu"
        ids = self.encode(sentences)
        for i, problem in self.too_long(ids).items():
            warn(i, f"{problem}: left empty")
        longest = self.model.config.max_len
        fits = [i for i, row in enumerate(ids) if 1 < len(row) <= longest]  # 1: only <eos>
        lengths = [len(ids[i]) for i in fits]
        if max_tokens is None:
            max_tokens = best_batch(lengths, self._most_tokens(beam_size)) if on_cpu else 4096
        batches = [[fits[i] for i in batch] for batch in length_batches(lengths, max_tokens)]

        def search(chosen: list[int]) -> list[list[Hypothesis]]:
            src = pad([ids[i] for i in chosen]).to(self.device)
            if beam_size == n_best == 1 and alpha == 0:
                found = greedy_decode(decoder, src, extra=EXTRA, scores=scores)
                return [[hypothesis] for hypothesis in found]
            options = {"beam_size": beam_size, "alpha": alpha, "n_best": n_best, "extra": EXTRA}
            text_of = self.tgt_vocab.decode if n_best > 1 else None
            return beam_search(decoder, src, **options, text_of=text_of)

        decoder = decoder_for(self.model)
        is_plain = isinstance(decoder, PlainDecoder)
        with in_evaluation(self.model) if is_plain else nullcontext() as model:  # for all threads
            decoder = PlainDecoder(model) if is_plain else decoder
            found = map_threads(search, batches) if on_cpu else [search(b) for b in batches]
        results = dict(zip(chain(*batches), chain(*found), strict=True))
        empty = [Hypothesis([], 0.0, 0.0, True)] * n_best
        return [results.get(i, empty) for i in range(len(ids))]

    def _most_tokens(self, beam_size: int) -> int:
        """Return how many source ids a batch on a CPU should have at most.

        Measured with d_model = 128 and 512: with more, caches are too small.
        """
        most = min(7_000, 900_000 // self.model.config.d_model)
        return most if beam_size == 1 else most // 2

    def too_long(self, ids: Sequence[Sequence[int]]) -> dict[int, str]:
        """Return, by index, what is wrong with the rows that the model has no positions for."""
        longest = self.model.config.max_len
        return {
            i: f"has {len(row):,} tokens, the model takes {longest:,}"
            for i, row in enumerate(ids)
            if len(row) > longest
        }

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam_size: int = 4,
        alpha: float = 0.6,
        warn: Warn = warn_of_sentence,
    ) -> list[str]:
        """Return the best translation of every sentence.

        An empty sentence stays empty, and so does one that is too long, with a warning; see
        `hypotheses`.
        """
        options = {"beam_size": beam_size, "alpha": alpha, "warn": warn}
        found = self.hypotheses(sentences, **options, scores=False)
        return [self.tgt_vocab.decode(best[0].ids) for best in found]

    def attention_maps(
        self, sentence: str, translation: str
    ) -> tuple[AttentionMaps, list[str], list[str]]:
        """Return the attention of one pair, with the tokens for the axes.

        Returns:
            The maps, the source tokens (S), and the decoder's *input* tokens (T): row t shows
            where the model looks while it predicts the token after `targets[t]`.

        Raises:
            ValueError: a side is too long for the model.
            NotFiniteError: the model computes NaN.
        """
        check_sentences([sentence, translation])
        (ids,), tgt = self.encode([sentence]), self.tgt_vocab.encode(translation, bos=True)
        for i, problem in self.too_long([ids, tgt]).items():
            raise ValueError(f"the {('sentence', 'translation')[i]} {problem}")
        src = torch.tensor([ids], device=self.device)
        with in_evaluation(self.model) as model, torch.no_grad():
            maps = model.attention_maps(src, torch.tensor([tgt], device=self.device))
        check_finite({"the attention": maps.cross}, "the model's output")
        return maps, _tokens(self.src_vocab, src[0]), _tokens(self.tgt_vocab, tgt)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write configuration, weights and vocabularies as a whole folder, see `write_folder`."""
        return write_folder(folder, lambda new: self.write_files(new, dtype), kind="model")

    def write_files(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a model into an existing folder; `torch.float16` halves the file of weights.

        Raises:
            NotFiniteError: a weight is NaN or infinite, or becomes so in that precision.
        """
        from safetensors.torch import save_file

        # named_parameters has shared weights once; the same weights give the same file
        weights = {
            name: parameter.detach().to("cpu", dtype).contiguous()
            for name, parameter in self.model.named_parameters()
        }
        kinds = {name: (list(tensor.shape), tensor.dtype) for name, tensor in weights.items()}
        if problems := weight_problems(self.model.config, kinds):
            raise ValueError(
                f"the weights cannot be saved: {'; '.join(problems)}; are weights no longer "
                "shared that the configuration shares? load_state_dict(assign=True) does that"
            )
        precision = f" in {str(dtype).removeprefix('torch.')}" if dtype else ""
        check_finite(weights, f"the weights cannot be saved{precision}")
        (folder / "config.json").write_text(json.dumps(asdict(self.model.config), indent=2) + "\n")
        save_file(weights, str(folder / "model.safetensors"))
        self.src_vocab.save(folder / "source.vocab")
        self.tgt_vocab.save(folder / "target.vocab")

    @classmethod
    def open(cls, name: str | Path, *, device: torch.device | str = "cpu") -> Translator:
        """Open a run (its best checkpoint), a model folder, or a shipped model by its name."""
        return read_model(name, lambda folder: cls.from_pretrained(folder, device=device))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: torch.device | str = "cpu"
    ) -> Translator:
        """Read a folder that `save` wrote, or a shipped model. Nothing is unpickled or fetched.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a file is missing or not what was written, or does not fit the others.
            NotFiniteError: the weights hold NaN or infinity.
        """
        folder = check_folder(find_pretrained(folder), FILES)
        config = read_config(folder / "config.json")
        model = load_weights(config, folder / "model.safetensors")
        source, target = (load_vocab(folder / f"{side}.vocab") for side in ("source", "target"))
        return cls(model.eval().to(choose_device(device)), source, target)


def check_sentences(sentences: Sequence[str]) -> None:
    """Raise ValueError for anything but a sequence of texts."""
    if not is_list(sentences):
        raise ValueError(f"give a list of sentences, [sentence], not {type(sentences).__name__}")
    for number, sentence in enumerate(sentences, start=1):
        if not isinstance(sentence, str):
            raise ValueError(f"sentence {number} is not a text but {type(sentence).__name__}")
        if SURROGATE.search(sentence):  # Python's stand-ins for bytes that it could not decode
            raise ValueError(f"sentence {number} is not UTF-8")


def retry_if_removed(find: Callable[[], list[Path]], read: Callable[[list[Path]], T]) -> T:
    """Read the folders that `find` returns; those that it returns next if one was removed.

    A training run removes old checkpoints, perhaps while another program reads them.
    """
    while True:
        folders = find()
        try:
            return read(folders)
        except (FileNotFoundError, CheckpointError):
            if all(map(os.path.lexists, folders)):
                raise


def read_model(name: str | Path, read: Callable[[Path], T]) -> T:
    """Read the folder that `find_model` finds, see `retry_if_removed`."""
    return retry_if_removed(lambda: [find_model(name)], lambda folders: read(*folders))


def find_model(name: str | Path) -> Path:
    """Return the folder of a run's best checkpoint, else what `find_pretrained` finds."""
    check_name(name)
    checkpoints = list_checkpoints(Path(name) / "checkpoints")
    if not checkpoints:
        return find_pretrained(name)
    best = Path(name) / "best.json"
    step = read_json(best, {"step": int})["step"] if best.is_file() else -1
    chosen = Path(name) / "checkpoints" / f"step-{step:06d}"
    return chosen if chosen in checkpoints else checkpoints[-1]


def find_pretrained(name: str | Path) -> Path:
    """Return the folder itself, or the folder of a shipped model by its name.

    Raises:
        FileNotFoundError: neither; the message lists what ships.
    """
    check_name(name)
    if Path(name).is_dir():
        return Path(name)
    package = Path(__file__).resolve().parents[1]  # installed, or a part of its repository
    folders = package / "pretrained", package.parent / "data" / "pretrained"
    manifests = [path for folder in folders for path in folder.glob(f"*/{MANIFEST}")]
    shipped = {path.parent.name: path.parent for path in manifests}
    if str(name) in shipped:
        return shipped[str(name)]
    known = ", ".join(sorted(shipped)) or "none"
    raise FileNotFoundError(f"no folder {name}, and no model of that name ships (known: {known})")


def best_batch(lengths: Sequence[int], most: int) -> int:
    """Choose the most ids of a batch on a CPU, so that all threads are done at about one time.

    With fewer than 256, calls cost more than arithmetic. From there to `most`, the smallest that
    gives every thread the same number of batches.
    """
    longest_first, threads = sorted(lengths, reverse=True), torch.get_num_threads()

    def rounds(max_tokens: int) -> int:
        start = n_batches = 0
        while start < len(lengths):
            start += max(1, max_tokens // longest_first[start])
            n_batches += 1
        return math.ceil(n_batches / threads)

    fewest = rounds(most)
    return bisect.bisect_left(range(most), -fewest, lo=256, key=lambda size: -rounds(size))


def length_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group indices into batches of at most max_tokens ids, padding included, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    batches = []
    while order:
        n = max(1, max_tokens // lengths[order[0]])
        batches.append(order[:n])
        order = order[n:]
    return batches


def _tokens(vocab: Vocab, ids: Sequence[int] | Tensor) -> list[str]:
    return [vocab.id_to_token(int(i)) for i in ids]
