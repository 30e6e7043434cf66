"""A model and its vocabularies as one thing that turns sentences into sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from transformer_lib.batching import pad
from transformer_lib.data.files import MANIFEST, check_folder, list_checkpoints, write_folder
from transformer_lib.data.reading import load_vocab, load_weights, read_config, read_json
from transformer_lib.decoding import Hypothesis, beam_search, greedy_decode
from transformer_lib.model import AttentionMaps, Transformer
from transformer_lib.translate.inference import for_inference, side_by_side
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
        self.model = model
        self.src_vocab = src_vocab
        self.tgt_vocab = src_vocab if tgt_vocab is None else tgt_vocab
        found = len(self.src_vocab), len(self.tgt_vocab)
        expected = model.config.src_vocab_size, model.config.tgt_vocab_size
        if found != expected:
            raise ValueError(f"vocabularies of {found} ids, but the model was built for {expected}")

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.output_projection.weight.device

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Source ids, each closed by `<eos>`, as in training."""
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
        """The n best translations of every sentence as ids with their scores.

        On a CPU, each of torch's threads decodes a batch of its own.

        Args:
            beam_size, alpha, n_best: as in `beam_search`.
            max_tokens: most source ids that are decoded together, padding included. Left out:
                4,096 on a GPU, and 1,024 on a CPU or what gives each thread something to do.
        """
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
        on_cpu = self.device.type == "cpu"
        ids = self.encode(sentences)
        lengths = [len(row) for row in ids]
        if max_tokens is None:
            max_tokens = best_batch(sum(lengths)) if on_cpu else 4096
        batches = length_batches(lengths, max_tokens)
        widths = {"beam_size": beam_size, "alpha": alpha, "n_best": n_best}

        def search(chosen: list[int]) -> list[list[Hypothesis]]:
            src = pad([ids[i] for i in chosen]).to(self.device)
            if beam_size == n_best == 1 and alpha == 0:
                return [[hypothesis] for hypothesis in greedy_decode(model, src, extra=EXTRA)]
            return beam_search(model, src, extra=EXTRA, **widths)

        was_training = self.model.training
        if was_training:  # telling all modules takes a sentence's twentieth
            self.model.eval()
        try:
            model = for_inference(self.model)
            found = side_by_side(search, batches) if on_cpu else [search(b) for b in batches]
        finally:
            if was_training:
                self.model.train()
        results = dict(zip(chain(*batches), chain(*found), strict=True))
        return [results[i] for i in range(len(ids))]

    def translate(
        self, sentences: Sequence[str], *, beam_size: int = 4, alpha: float = 0.6
    ) -> list[str]:
        """The best translation of every sentence. An empty sentence stays empty, in its place.

        Raises:
            ValueError: one string was given instead of a list of strings.
        """
        if isinstance(sentences, str):
            raise ValueError("translate takes a list of sentences: translate([sentence])")
        places = [i for i, sentence in enumerate(sentences) if normalize_text(sentence)]
        found = self.hypotheses([sentences[i] for i in places], beam_size=beam_size, alpha=alpha)
        texts = [""] * len(sentences)
        for i, hypotheses in zip(places, found, strict=True):
            texts[i] = self.tgt_vocab.decode(hypotheses[0].ids)
        return texts

    def attention_maps(
        self, sentence: str, translation: str
    ) -> tuple[AttentionMaps, list[str], list[str]]:
        """The attention of one pair, with the tokens for the axes.

        Returns:
            The maps, the source tokens (S), and the decoder's *input* tokens (T): row t shows
            where the model looks while it predicts the token after `targets[t]`.
        """
        src = torch.tensor(self.encode([sentence]), device=self.device)
        tgt = self.tgt_vocab.encode(translation, bos=True)
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                maps = self.model.attention_maps(src, torch.tensor([tgt], device=self.device))
        finally:
            self.model.train(was_training)
        return maps, _tokens(self.src_vocab, src[0]), _tokens(self.tgt_vocab, tgt)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Writes configuration, weights and vocabularies as a whole folder, see `write_folder`.

        Args:
            dtype: of the weights on disk; `torch.float16` halves the file.
        """
        return write_folder(folder, lambda temporary: self.write_files(temporary, dtype))

    def write_files(self, folder: Path, dtype: torch.dtype | None = None) -> None:
        """The files of a model, into a folder that is there."""
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
        """Open a run (its best checkpoint), a model folder, or a shipped model by its name.

        Raises:
            FileNotFoundError, ValueError: see `from_pretrained`.
        """
        return cls.from_pretrained(find_model(name), device=device)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: torch.device | str = "cpu"
    ) -> Translator:
        """Reads what `save` wrote. Nothing is unpickled, nothing is fetched.

        Args:
            folder: a folder, or the name of a model that ships with the library.
            device: where to put the weights.

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
    """Return the model folder of a run (its best checkpoint), a folder, or a shipped name.

    Raises:
        FileNotFoundError: there is no such folder and no such name.
    """
    checkpoints = list_checkpoints(Path(name) / "checkpoints")
    if not checkpoints:
        return find_pretrained(name)
    best = Path(name) / "best.json"
    step = read_json(best, {"step": int})["step"] if best.is_file() else -1
    chosen = Path(name) / "checkpoints" / f"step-{step:06d}"
    return chosen if chosen in checkpoints else checkpoints[-1]


def pretrained_folders() -> list[Path]:
    """Where models that ship with the library may be: in the package, or in its repository."""
    package = Path(__file__).resolve().parents[1]
    return [package / "pretrained", package.parent / "data" / "pretrained"]


def find_pretrained(name: str | Path) -> Path:
    """The folder itself, or the folder of a model that ships, by its name.

    Raises:
        FileNotFoundError: neither; the message lists what ships.
    """
    if Path(name).is_dir():
        return Path(name)
    shipped = {path.parent.name: path.parent for folder in pretrained_folders()
               for path in folder.glob(f"*/{MANIFEST}")}  # fmt: skip
    if str(name) in shipped:
        return shipped[str(name)]
    known = ", ".join(sorted(shipped)) or "none"
    raise FileNotFoundError(f"no folder {name}, and no model of that name ships (known: {known})")


def best_batch(n_tokens: int) -> int:
    """Most ids of a batch on a CPU: 1,024 go well with its caches; with less to do, every thread
    should get a share, though calls cost more than arithmetic below some 256."""
    share = 1.1 * n_tokens / torch.get_num_threads()  # a little more, for padding
    return min(1024, max(256, int(share)))


def length_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of at most max_tokens ids, padding included; the longest come first."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    batches = []
    while order:
        n = max(1, max_tokens // lengths[order[0]])
        batches.append(order[:n])
        order = order[n:]
    return batches


def _tokens(vocab: Vocab, ids: Sequence[int] | Tensor) -> list[str]:
    return [vocab.id_to_token(int(i)) for i in ids]
