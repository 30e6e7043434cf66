"""The translator: order, empty lines, saving, and refusing what is damaged."""

import pytest
import torch
from helpers import tiny

from transformer_lib import ModelConfig, SubwordVocab, Transformer, Translator, WordVocab

TEXTS = ["ein Hund schläft im Garten", "eine Katze sieht den Hund", "der Garten ist grün"] * 3


@pytest.fixture
def translator():
    return Translator(tiny(40, n_layers=1, max_len=80), SubwordVocab.train(TEXTS, size=40))


def test_order_is_kept_and_batches_do_not_matter(translator):
    nothing = ["", "   ", "\ufeff", "\u2028\xa0\ufeff"]
    sentences = ["ein Hund", *nothing, "die Katze sieht den grünen Garten", "ein Hund"]
    translations = translator.translate(sentences)
    assert translations == [translator.translate([sentence])[0] for sentence in sentences]
    assert translations[1:5] == [""] * 4 and translations[5] != translations[6] != ""
    one_by_one = translator.hypotheses(["ein Hund", "der Garten ist grün"], max_tokens=1)
    together = translator.hypotheses(["ein Hund", "der Garten ist grün"])
    assert [h[0].ids for h in one_by_one] == [h[0].ids for h in together]


def test_a_single_string_is_refused(translator):
    with pytest.raises(ValueError, match="list of sentences"):
        translator.translate("ein Hund")


@pytest.mark.parametrize("training", [True, False])
def test_attention_maps_come_with_their_tokens_and_change_no_mode(translator, training):
    translator.model.train(training)
    maps, sources, targets = translator.attention_maps("ein Hund", "eine Katze")
    assert translator.model.training is training
    assert sources[-1] == "<eos>" and targets[0] == "<bos>"
    assert maps.cross.shape == (1, 1, 4, len(targets), len(sources))


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_saved_translates_the_same(translator, tmp_path, tied):
    if not tied:
        words = WordVocab.train(TEXTS, "de", min_freq=1)
        sizes = {"d_model": 16, "n_heads": 2, "n_layers": 1, "d_ff": 16}
        model = Transformer(ModelConfig(len(words), 40, tie_embeddings=False, **sizes))
        translator = Translator(model, words, translator.tgt_vocab)
    translator.save(tmp_path / "model")
    again = Translator.from_pretrained(tmp_path / "model")
    for name, tensor in translator.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert (again.model.output_projection.weight is again.model.tgt_embedding.weight) is tied
    assert again.translate(TEXTS[:3]) == translator.translate(TEXTS[:3])


@pytest.mark.parametrize("name", ["model.safetensors", "source.vocab", "config.json"])
def test_one_changed_byte_is_noticed(translator, tmp_path, name):
    translator.save(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(bytes(data))
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        Translator.from_pretrained(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Translator.from_pretrained(tmp_path / "nowhere")


def test_the_vocabulary_must_fit_the_model(translator):
    with pytest.raises(ValueError, match=r"\(40, 40\) ids, but the model was built for \(41, 41\)"):
        Translator(tiny(41), translator.src_vocab)
