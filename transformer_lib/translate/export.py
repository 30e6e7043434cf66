"""Trained models for other engines: CTranslate2, and Hugging Face transformers.

Nothing is approximated. What an architecture cannot hold is refused, in one line. The packages are
in the extra `export` and imported when used.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from transformer_lib.config import ModelConfig
from transformer_lib.data.extras import needs
from transformer_lib.data.files import check_free, write_folder
from transformer_lib.data.reading import check_finite
from transformer_lib.model import Transformer
from transformer_lib.translate.spelling import with_spelling_rules
from transformer_lib.translate.translator import EXTRA, Translator
from transformer_lib.vocab import BOS_ID, EOS_ID, SPECIALS, SubwordVocab, Vocab

__all__ = ["Engine", "as_transformers", "export", "transformers_weights"]

Engine = Literal["ctranslate2", "transformers"]


def export(
    translator: Translator, folder: str | Path, engine: Engine, *, replace: bool = False
) -> Path:
    """Write a folder that the engine opens, whole or not at all (`write_folder`).

    Args:
        engine: "ctranslate2", or "transformers" for Hugging Face (MarianMT where the model is
            post-norm, Pegasus, its pre-norm sister, where it is pre-norm).
        replace: allow replacing an earlier export of this name.

    Raises:
        ImportError: the package is missing.
        ValueError: the engine has no such architecture.
        FileExistsError: the name is taken.
    """
    if engine not in get_args(Engine):
        raise ValueError(f"no engine {engine!r}; there are {', '.join(get_args(Engine))}")
    check_free(folder, "export", replace=replace)
    prepare = _fill_ctranslate2 if engine == "ctranslate2" else _fill_transformers
    return write_folder(folder, prepare(translator), kind="export", replace=replace)


def _load(module: str) -> Any:
    with needs("export"):
        return importlib.import_module(module)


def _tokens(vocab: Vocab) -> list[str]:
    return [vocab.id_to_token(id) for id in range(len(vocab))]


def _weights(model: Transformer) -> dict[str, Tensor]:
    """Return the weights in float32; shared ones are under each of their names.

    Raises:
        NotFiniteError: a weight is NaN or infinite.
    """
    weights = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}
    check_finite(weights, "the weights cannot be exported")
    return weights


# CTranslate2


CTRANSLATE2_NOTE = """\
# A model for CTranslate2

CTranslate2 takes tokens. Those of `source.vocab` are exactly those that the model was trained on:

    import ctranslate2
    from transformer_lib.vocab import Vocab

    source, target = Vocab.load("source.vocab"), Vocab.load("target.vocab")
    results = ctranslate2.Translator(".").translate_batch([source.tokenize("Ein Satz.")])
    print(target.join(results[0].hypotheses[0]))

With another tokenizer, normalize each sentence first (`transformer_lib.normalize_text`). Tokens are
names here: leave tokens called `<pad>`, `<bos>` or `<eos>` out of what you pass.
"""


def _fill_ctranslate2(translator: Translator) -> Callable[[Path], None]:
    specs = _load("ctranslate2.specs")
    config, weights = translator.model.config, _weights(translator.model)
    spec = specs.TransformerSpec.from_config(
        config.n_layers, config.n_heads, pre_norm=config.norm_first
    )
    _set_stack(spec.encoder, weights, "encoder")
    _set_stack(spec.decoder, weights, "decoder")
    nothing = torch.zeros(1, config.max_len, config.d_model, device=translator.device)
    with torch.no_grad():  # what is added at each position; zeros where nothing is
        positions = translator.model.positions(nothing)[0].float().cpu().numpy()
    for stack in (spec.encoder, spec.decoder):
        stack.position_encodings.encodings = positions
    spec.encoder.embeddings[0].weight = weights["src_embedding.weight"].numpy()
    spec.decoder.embeddings.weight = weights["tgt_embedding.weight"].numpy()
    spec.decoder.projection.weight = weights["output_projection.weight"].numpy()
    spec.register_source_vocabulary(_tokens(translator.src_vocab))
    spec.register_target_vocabulary(_tokens(translator.tgt_vocab))
    for name, token in zip(("unk", "bos", "eos"), SPECIALS[1:], strict=True):
        setattr(spec.config, f"{name}_token", token)
    spec.config.decoder_start_token = SPECIALS[BOS_ID]
    spec.config.add_source_eos = True

    def fill(folder: Path) -> None:
        spec.validate()
        spec.optimize()
        spec.save(str(folder))
        translator.src_vocab.save(folder / "source.vocab")
        translator.tgt_vocab.save(folder / "target.vocab")
        (folder / "README.md").write_text(CTRANSLATE2_NOTE, "utf-8")

    return fill


def _set_stack(stack: Any, weights: Mapping[str, Tensor], side: str) -> None:
    for i, layer in enumerate(stack.layer):
        name = f"{side}.layers.{i}"
        parts = [(layer.self_attention, "self_attention", [["query", "key", "value"], ["output"]])]
        if side == "decoder":
            groups = [["query"], ["key", "value"], ["output"]]
            parts.append((layer.attention, "cross_attention", groups))
        for number, (attention, called, groups) in enumerate(parts):
            for linear, group in zip(attention.linear, groups, strict=True):
                _set_linear(linear, weights, [f"{name}.{called}.{part}" for part in group])
            _set_norm(attention.layer_norm, weights, f"{name}.residuals.{number}.norm")
        _set_linear(layer.ffn.linear_0, weights, [f"{name}.feed_forward.expand"])
        _set_linear(layer.ffn.linear_1, weights, [f"{name}.feed_forward.contract"])
        _set_norm(layer.ffn.layer_norm, weights, f"{name}.residuals.{len(parts)}.norm")
    if f"{side}.norm.weight" in weights:  # pre-norm's last LayerNorm
        _set_norm(stack.layer_norm, weights, f"{side}.norm")


def _set_linear(linear: Any, weights: Mapping[str, Tensor], names: list[str]) -> None:
    linear.weight = torch.cat([weights[f"{name}.weight"] for name in names]).numpy()
    linear.bias = torch.cat([weights[f"{name}.bias"] for name in names]).numpy()


def _set_norm(norm: Any, weights: Mapping[str, Tensor], name: str) -> None:
    norm.gamma, norm.beta = (weights[f"{name}.{part}"].numpy() for part in ("weight", "bias"))


# Hugging Face


TRANSFORMERS_NOTE = """\
# A model for Hugging Face transformers

`AutoTokenizer` and `AutoModelForSeq2SeqLM` open this folder. The tokenizer gives a sentence the
same ids as our own: Unicode's composed form (NFC), no invisible characters, `&amp;` as `&`, single
spaces, and a typed `<eos>` as plain text. Three things cannot be written in its format:

- An entity inside an entity (`&amp;uuml;`), numeric entities of rare characters, and an invisible
  character between a letter and its accent are not resolved. `transformer_lib.normalize_text` does.
- The zero-width joiners of emoji are dropped, too, unless the vocabulary knows them.
- A sentence that starts with `>>` and holds `<<` starts with a language code for this tokenizer.
"""


THEIR_NAMES = {
    "self_attention.": "self_attn.",
    "cross_attention.": "encoder_attn.",
    "query.": "q_proj.",
    "key.": "k_proj.",
    "value.": "v_proj.",
    "output.": "out_proj.",
    "feed_forward.expand.": "fc1.",
    "feed_forward.contract.": "fc2.",
    "residuals.0.norm.": "self_attn_layer_norm.",
    "residuals.1.norm.": "encoder_attn_layer_norm.",
    "encoder.norm.": "encoder.layer_norm.",
    "decoder.norm.": "decoder.layer_norm.",
}


def transformers_weights(model: Transformer) -> dict[str, Tensor]:
    """Return our weights by Hugging Face's names, with the channels in its order.

    Its sinusoids have all sines before all cosines, ours alternate. The order of the D channels is
    free as long as all parts agree on it, so all of them are put in that order.
    """
    width = model.config.d_model
    order = torch.cat([torch.arange(0, width, 2), torch.arange(1, width, 2)])
    renamed = {}
    for name, tensor in _weights(model).items():
        if "embedding" in name or name.startswith("output_projection"):
            renamed["model.shared.weight"] = tensor[:, order]
            continue
        if name.endswith(("output.weight", "contract.weight")) or tensor.dim() == 1:
            inside = ("query.bias", "key.bias", "value.bias", "expand.bias")
            tensor = tensor if name.endswith(inside) else tensor[order]
        elif tensor.dim() == 2:
            tensor = tensor[:, order]
        last = 1 if name.startswith("encoder") else 2
        name = name.replace(f"residuals.{last}.norm.", "final_layer_norm.")
        for ours, theirs in THEIR_NAMES.items():
            name = name.replace(ours, theirs)
        renamed[f"model.{name}"] = tensor.contiguous()
    return renamed


def as_transformers(model: Transformer) -> Any:
    """Return the same model as `MarianMTModel` or, pre-norm, `PegasusForConditionalGeneration`.

    Raises:
        ImportError: the package is missing.
        ValueError: it has no such architecture.
    """
    theirs = _load("transformers")
    config = model.config
    if not (config.tie_embeddings and config.shared_vocabulary):
        raise ValueError("Hugging Face's architecture needs one vocabulary and tied embeddings")
    if config.positions != "sinusoidal":
        raise ValueError(f"Hugging Face's architecture has sinusoids, got {config.positions}")
    if config.norm_first:
        twin = theirs.PegasusForConditionalGeneration(theirs.PegasusConfig(**_settings(config)))
    else:
        twin = theirs.MarianMTModel(theirs.MarianConfig(**_settings(config)))
    missing, unknown = twin.load_state_dict(transformers_weights(model), strict=False)
    twin.tie_weights()
    fixed = ("embed_positions.weight", "embed_tokens.weight", "lm_head.weight", "logits_bias")
    if unknown or not all(name.endswith(fixed) for name in missing):
        raise ValueError(f"this release of transformers has other weights: {missing}, {unknown}")
    twin.generation_config.update(
        max_length=None, max_new_tokens=config.max_len // 2, num_beams=4, early_stopping=True
    )
    return twin.eval()


def _settings(config: ModelConfig) -> dict[str, Any]:
    both = {"layers": config.n_layers, "attention_heads": config.n_heads, "ffn_dim": config.d_ff}
    sides = {f"{side}_{k}": v for side in ("encoder", "decoder") for k, v in both.items()}
    ids = {"pad": config.pad_id, "bos": BOS_ID, "eos": EOS_ID, "decoder_start": BOS_ID}
    return {
        **sides,
        **{f"{name}_token_id": id for name, id in ids.items()},
        "vocab_size": config.tgt_vocab_size,
        "d_model": config.d_model,
        "dropout": config.dropout,
        "max_position_embeddings": config.max_len,
        "activation_function": "relu",
        "scale_embedding": True,
        "forced_eos_token_id": None,
    }


def _fill_transformers(translator: Translator) -> Callable[[Path], None]:
    if not isinstance(translator.src_vocab, SubwordVocab):
        raise ValueError("Hugging Face's tokenizer needs subwords, this model has whole words")
    twin = as_transformers(translator.model)
    ids = {token: id for id, token in enumerate(_tokens(translator.src_vocab))}
    tokenizer = {
        "tokenizer_class": "MarianTokenizer",
        "pad_token": SPECIALS[0],
        "unk_token": SPECIALS[1],
        "eos_token": SPECIALS[EOS_ID],
        "model_max_length": translator.model.config.max_len - EXTRA,
        "separate_vocabs": False,
        "split_special_tokens": True,  # a typed "<eos>" is text
    }
    model = with_spelling_rules(translator.src_vocab)

    def fill(folder: Path) -> None:
        twin.save_pretrained(str(folder))
        for side in ("source", "target"):
            (folder / f"{side}.spm").write_bytes(model)
        (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), "utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), "utf-8")
        (folder / "README.md").write_text(TRANSFORMERS_NOTE, "utf-8")

    return fill
