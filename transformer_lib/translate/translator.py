"""A model and its vocabularies as one thing that turns sentences into sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from transformer_lib.batching import pad
from transformer_lib.data.files import MANIFEST, check_folder, list_checkpoints, write_folder
from transformer_lib.data.reading import load_vocab, load_weights, read_config, read_json
from transformer_lib.decoding import Hypothesis
from transformer_lib.model import AttentionMaps, Transformer
from transformer_lib.training import evaluation_mode
from transformer_lib.translate.inference import PlainDecoder, decoder_for, map_threads
from transformer_lib.translate.search import beam_search, check_search, greedy_decode
from transformer_lib.vocab import Vocab, normalize_text

EXTRA = 50  # a translation may be this many tokens longer than its source (section 6.1)
FILES = ("config.json", "model.safetensors", "source.vocab", "target.vocab")


class Translator:
    """Sentences in, translations out, in the same order.

    Args:
        model: a trained `Transformer`.
        src_vocab: the source language's vocabulary.
        tgt_vocab: the target language's; the source's when left out (shared subwords).

    Raises:
        ValueError: a vocabulary's size is not the one the model was built for.
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

    @property
    def device(self) -> torch.device:
        """The device of the model's weights."""
        return self.model.output_projection.weight.device

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Return source ids, each ending in `<eos>`, as in training."""
        return [self.src_vocab.encode(sentence, eos=True) for sentence in sentences]

    def hypotheses(
        self,
        sentences: Sequence[str],
        *,
        beam_size: int = 4,
        alpha: float = 0.6,
        n_best: int = 1,
        max_tokens: int | None = None,
    ) -> list[list[Hypothesis]]:
        """Return the n best translations of every sentence as ids with their scores.

        On a CPU, each of torch's threads decodes a batch of its own.

        Args:
            beam_size, alpha, n_best: as in `beam_search`.
            max_tokens: most source ids that are decoded together, padding included. Left out:
                4,096 on a GPU, and 1,024 on a CPU or what gives each thread something to do.
        """
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        if isinstance(sentences, str):
            raise ValueError("give a list of sentences: [sentence]")
        check_search(n_best, beam_size, alpha, self.model.config.tgt_vocab_size)
        on_cpu = self.device.type == "cpu"
        ids = self.encode(sentences)
        lengths = [len(row) for row in ids]
        if max_tokens is None:
            max_tokens = best_batch(sum(lengths)) if on_cpu else 4096
        batches = length_batches(lengths, max_tokens)
        decoder = decoder_for(self.model)

        def search(chosen: list[int]) -> list[list[Hypothesis]]:
            src = pad([ids[i] for i in chosen]).to(self.device)
            if beam_size == n_best == 1 and alpha == 0:
                return [[hypothesis] for hypothesis in greedy_decode(decoder, src, extra=EXTRA)]
            options = {"beam_size": beam_size, "alpha": alpha, "n_best": n_best, "extra": EXTRA}
            return beam_search(decoder, src, **options)

        # Once around all threads: each would restore what it found, in the middle of the others.
        is_plain = isinstance(decoder, PlainDecoder)
        with evaluation_mode(self.model) if is_plain else nullcontext():
            found = map_threads(search, batches) if on_cpu else [search(b) for b in batches]
        results = dict(zip(chain(*batches), chain(*found), strict=True))
        return [results[i] for i in range(len(ids))]

    def translate(
        self, sentences: Sequence[str], *, beam_size: int = 4, alpha: float = 0.6
    ) -> list[str]:
        """Return the best translation of every sentence. An empty sentence stays empty."""
        if isinstance(sentences, str):
            raise ValueError("translate takes a list of sentences: translate([sentence])")
        numbers = [i for i, sentence in enumerate(sentences) if normalize_text(sentence)]
        results = self.hypotheses([sentences[i] for i in numbers], beam_size=beam_size, alpha=alpha)
        texts = [""] * len(sentences)
        for i, hypotheses in zip(numbers, results, strict=True):
            texts[i] = self.tgt_vocab.decode(hypotheses[0].ids)
        return texts

    def attention_maps(
        self, sentence: str, translation: str
    ) -> tuple[AttentionMaps, list[str], list[str]]:
        """Return the attention of one pair, with the tokens for the axes.

        Returns:
            The maps, the source tokens (S), and the decoder's *input* tokens (T): row t shows
            where the model looks while it predicts the token after `targets[t]`.
        """
        src = torch.tensor(self.encode([sentence]), device=self.device)
        tgt = self.tgt_vocab.encode(translation, bos=True)
        with evaluation_mode(self.model), torch.no_grad():
            maps = self.model.attention_maps(src, torch.tensor([tgt], device=self.device))
        return maps, _tokens(self.src_vocab, src[0]), _tokens(self.tgt_vocab, tgt)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write configuration, weights and vocabularies as a whole folder, see `write_folder`."""
        return write_folder(folder, lambda new: self.write_files(new, dtype), kind="model")

    def write_files(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """Write a model into an existing folder; `torch.float16` halves the file of weights."""
        from safetensors.torch import save_file

        # named_parameters has shared weights once; the same weights give the same file
        weights = {
            name: parameter.detach().to("cpu", dtype).contiguous()
            for name, parameter in self.model.named_parameters()
        }
        (folder / "config.json").write_text(json.dumps(asdict(self.model.config), indent=2) + "\n")
        save_file(weights, str(folder / "model.safetensors"))
        self.src_vocab.save(folder / "source.vocab")
        self.tgt_vocab.save(folder / "target.vocab")

    @classmethod
    def open(cls, name: str | Path, *, device: torch.device | str = "cpu") -> Translator:
        """Open a run (its best checkpoint), a model folder, or a shipped model by its name."""
        return cls.from_pretrained(find_model(name), device=device)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: torch.device | str = "cpu"
    ) -> Translator:
        """Read a folder that `save` wrote, or a shipped model. Nothing is unpickled or fetched.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a file is missing or not what was written, or does not fit the others.
        """
        folder = check_folder(find_pretrained(folder), FILES)
        config = read_config(folder / "config.json")
        model = load_weights(config, folder / "model.safetensors")
        source, target = (load_vocab(folder / f"{side}.vocab") for side in ("source", "target"))
        return cls(model.eval().to(device), source, target)


def find_model(name: str | Path) -> Path:
    """Return the folder of a run's best checkpoint, else what `find_pretrained` finds."""
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


def best_batch(n_tokens: int) -> int:
    """Choose the most ids of a batch on a CPU: a share for every thread, from 256 to 1,024.

    With fewer, calls cost more than arithmetic; with more, its caches are too small.
    """
    share = 1.1 * n_tokens / torch.get_num_threads()  # a little more, for padding
    return min(1024, max(256, int(share)))


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
