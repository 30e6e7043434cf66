"""The translator: order, empty lines, saving, and refusing what is damaged."""

import inspect

import pytest
import torch
from helpers import prepared, tiny

from transformer_lib import ModelConfig, SubwordVocab, Transformer, Translator, WordVocab
from transformer_lib.cli import main
from transformer_lib.data.reading import NotFiniteError
from transformer_lib.data.text import ParallelText
from transformer_lib.translate import translator as translator_module
from transformer_lib.translate.translator import check_sentences
from transformer_lib.vocab import EOS_ID

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


@pytest.mark.parametrize("method", ["translate", "hypotheses", "encode"])
@pytest.mark.parametrize(
    ("sentences", "problem"),
    [("ein Hund", "list of sentences"), (["ein Hund", "\udcff"], "sentence 2 is not UTF-8")],
)
def test_what_is_no_list_of_texts_is_refused(translator, method, sentences, problem):
    with pytest.raises(ValueError, match=problem):
        getattr(translator, method)(sentences)


def test_an_item_that_is_no_text_is_refused():
    for item in (None, 7, b"ein Hund"):
        with pytest.raises(ValueError, match=f"sentence 2 is not a text but {type(item).__name__}"):
            inspect.unwrap(check_sentences)(["ein Hund", item])


def test_a_sentence_that_is_too_long_is_told_on_every_path(translator):
    """It stays empty in its place with a warning; what is asked for it alone is refused."""
    long, problem = "Hund " * 100, r"has \d+ tokens, the model takes 80"
    with pytest.warns(UserWarning, match=f"sentence 3 {problem}"):
        texts = translator.translate(["ein Hund", "", long, "ein Hund"])
    assert texts[1:3] == ["", ""] and texts[0] == texts[3] != ""
    with pytest.warns(UserWarning, match=f"sentence 1 {problem}"):
        assert [h.ids for h in translator.hypotheses([long], n_best=2)[0]] == [[], []]
    for empty in ("", " \u200b\t"):
        assert [h.ids for h in translator.hypotheses([empty, "Hund"], n_best=2)[0]] == [[], []]
    for pair, side in (((long, "Hund"), "sentence"), (("Hund", long), "translation")):
        with pytest.raises(ValueError, match=f"the {side} {problem}"):
            translator.attention_maps(*pair)


def test_no_two_of_the_best_read_the_same(translator, monkeypatch):
    """All ids of this vocabulary read the same; four texts are found, and the best one stays."""
    ends = torch.zeros(40).index_fill(0, torch.tensor(EOS_ID), 4.0)  # the model does end
    translator.model.output_projection.register_forward_hook(lambda *args: args[-1] + ends)
    alone = translator.hypotheses(TEXTS[:2], alpha=0.0)
    monkeypatch.setattr(type(translator.tgt_vocab), "decode", lambda _, ids: "a" * len(ids))
    found = translator.hypotheses(TEXTS[:2], n_best=4, alpha=0.0)
    for several, (best,) in zip(found, alone, strict=True):
        texts = [translator.tgt_vocab.decode(h.ids) for h in several]
        assert len(set(texts)) == len(texts) == 4
        ranks = [(not h.finished, -h.score) for h in several]
        assert several[0].ids == best.ids and ranks == sorted(ranks)


# NaN and infinity


def broken(translator, name="encoder.layers.0.feed_forward.expand.weight", value=torch.nan):
    with torch.no_grad():
        translator.model.get_parameter(name).view(-1)[3] = value
    return translator


def save_unchecked(translator, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(translator_module, "check_finite", lambda *_: None)
        return translator.save(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_no_numbers_are_neither_read_nor_written(
    translator, tmp_path, monkeypatch, value
):
    name = "decoder.layers.0.cross_attention.key.bias"
    broken(translator, name, value)
    what = rf"1 of \d+ numbers of {name} are NaN or infinite"
    with pytest.raises(NotFiniteError, match=f"cannot be saved: {what}"):
        translator.save(tmp_path / "new")
    assert not any(tmp_path.iterdir())
    save_unchecked(translator, tmp_path / "bad", monkeypatch)
    for read in (Translator.from_pretrained, Translator.open):
        with pytest.raises(ValueError, match=f"bad/model.safetensors: {what}"):
            read(tmp_path / "bad")


def test_weights_that_overflow_in_half_precision_are_not_written(translator, tmp_path):
    broken(translator, value=7e4)
    translator.save(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"saved in float16: 1 of .* of encoder.layers.0.feed_for"):
        translator.save(tmp_path / "half", torch.float16)
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("value", [torch.nan, 3e38])
@pytest.mark.parametrize("search", [{}, {"beam_size": 1, "alpha": 0.0}])
def test_a_model_that_computes_nan_is_not_read_as_silence(translator, value, search):
    for name in ("tgt_embedding.weight", "encoder.layers.0.residuals.0.norm.weight"):
        torch.nn.init.constant_(translator.model.get_parameter(name), value)
    with pytest.raises(ValueError, match="computes NaN"):
        translator.translate(["ein Hund"], **search)
    with pytest.raises(ValueError, match="numbers of the attention are NaN"):
        translator.attention_maps("ein Hund", "eine Katze")


@pytest.mark.parametrize(
    "command",
    [
        "translate {bad} Hund",
        "evaluate {bad} --data {data}",
        "info {bad}",
        "average {out} {bad}",
        "average {out} {good} {bad} --half",
        "export {bad} {out} --to transformers",
        "average {out} {huge} --half",
        "translate {huge} Hund",
    ],
)
def test_every_command_tells_of_nan_in_one_line(translator, tmp_path, monkeypatch, capsys, command):
    where = {name: tmp_path / name for name in ("good", "bad", "huge", "out", "data")}
    prepared(where["data"], ParallelText(tuple(TEXTS), tuple(TEXTS), "train"), 40)
    translator.save(where["good"])
    name = "encoder.layers.0.feed_forward.expand.weight"
    save_unchecked(broken(translator), where["bad"], monkeypatch)
    torch.nn.init.constant_(translator.model.get_parameter(name), 3e38)
    translator.save(where["huge"])
    assert main([word.format(**where) for word in command.split()]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1) and not where["out"].exists()
    assert "computes NaN" in err if "translate {huge}" in command else name in err


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
    two = tiny(40, shared_vocabulary=False)  # of one size, but not the same
    assert Translator(two, translator.src_vocab, translator.tgt_vocab)
    with pytest.raises(ValueError, match="two vocabularies: give tgt_vocab"):
        Translator(two, translator.src_vocab)
