"""Models for other engines: the same outputs there, and one line where the engine is missing.

CTranslate2 and Hugging Face transformers are extras (`pip install -e ".[export]"`); what needs them
is skipped where they are not installed. The renaming of weights is held without them.
"""

import inspect
import sys
import unicodedata

import pytest
import torch
from helpers import tiny, unsettled

from benchmarks.peers.torch_nn import TorchModel
from transformer_lib import ModelConfig, SubwordVocab, Transformer, Translator, WordVocab
from transformer_lib.cli import main
from transformer_lib.translate.export import THEIR_NAMES, export, transformers_weights
from transformer_lib.translate.spelling import with_spelling_rules

LINES = ["ein Hund schläft im Garten", "eine Katze sieht den Hund", "der Garten ist grün"] * 9
SENTENCES = ["der Hund sieht den Garten", "eine Katze", "der Hund schläft im Garten ist grün"]
GERMAN = [
    "Ein Hund läuft durch den tiefen Schnee.",
    "Zwei Kinder spielen im Garten mit einem Ball.",
    "Eine Frau in einem roten Kleid liest ein Buch.",
]


SIZES = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_ff": 24, "max_len": 64}


def translator(vocab=None, **changes):
    """A model that has learned nothing, all of whose weights are other than 0 and 1."""
    vocab = vocab or SubwordVocab.train(LINES, size=40)
    return Translator(unsettled(tiny(len(vocab), 1, **(SIZES | changes))).float().eval(), vocab)


def log_probs(found, sentence, tokens):
    """Ours of every token of a translation and of its end (teacher forcing)."""
    src = torch.tensor(found.encode([sentence]))
    ids = [found.tgt_vocab.token_to_id(token) for token in tokens]
    tgt = torch.tensor([[found.tgt_vocab.bos_id, *ids]])
    with torch.no_grad():
        rows = found.model(src, tgt)[0].log_softmax(-1)
    return rows.gather(1, torch.tensor([*ids, found.tgt_vocab.eos_id])[:, None])[:, 0]


# Without the engines


@pytest.mark.parametrize("norm_first", [False, True])
def test_renamed_weights_are_the_same_model_with_its_channels_in_another_order(norm_first):
    ours = translator(norm_first=norm_first).model
    renamed = {}
    for name, tensor in transformers_weights(ours).items():
        name = name.removeprefix("model.").replace("shared.", "tgt_embedding.")
        last = 1 if name.startswith("encoder") else 2
        name = name.replace("final_layer_norm.", f"residuals.{last}.norm.")
        name = name.replace("encoder_attn_layer_norm.", "residuals.1.norm.")
        for mine, theirs in THEIR_NAMES.items():
            name = name.replace(theirs, mine)
        renamed[name] = tensor
    twin = TorchModel.from_ours(vars(ours.config), renamed, 0.0).eval()
    twin.table = torch.cat([twin.table[:, 0::2], twin.table[:, 1::2]], dim=1)  # sines, cosines
    src, tgt = torch.tensor([[5, 6, 7, 3, 0], [9, 8, 4, 11, 3]]), torch.tensor([[2, 5, 6]] * 2)
    torch.testing.assert_close(twin(src, tgt), ours(src, tgt), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", ["ctranslate2", "transformers"])
def test_a_missing_package_is_one_line_that_names_the_extra(engine, tmp_path, monkeypatch, capsys):
    for name in (engine, f"{engine}.specs"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    folder = translator().save(tmp_path / "model")
    assert main(["export", str(folder), str(tmp_path / "out"), "--to", engine]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f'error: {engine} is not installed: pip install "transformer-lib[export]"'
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileExistsError, match="not one of ours"):  # before anything is loaded
        export(translator(), tmp_path, engine)
    with pytest.raises(ValueError, match="no engine 'onnx'; there are ctranslate2, transformers"):
        inspect.unwrap(export)(translator(), tmp_path / "out", "onnx")  # the tests check types


# CTranslate2


def translator_of_words():
    """A model of whole words, whose target vocabulary has two more."""
    source = WordVocab.train(LINES, "de", min_freq=1)
    target = WordVocab.train([*LINES, "eins zwei"], "de", min_freq=1)
    config = ModelConfig(len(source), len(target), **SIZES)
    return Translator(unsettled(Transformer(config)).float().eval(), source, target)


SETTINGS = [{}, {"norm_first": True}, {"positions": "learned"}, {"positions": "none"}]
SETTINGS += [{"tie_embeddings": False}, {"shared_vocabulary": False}, "words"]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_ctranslate2_gives_every_token_our_probability(changes, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs the extra `export`")
    ours = translator_of_words() if changes == "words" else translator(**changes)
    export(ours, tmp_path / "out", "ctranslate2")
    engine = ctranslate2.Translator(str(tmp_path / "out"), compute_type="float32")
    for sentence, other in zip(SENTENCES, SENTENCES[::-1], strict=True):
        source, target = ours.src_vocab.tokenize(sentence), ours.tgt_vocab.tokenize(other)
        (found,) = engine.score_batch([source], [target])
        expected = log_probs(ours, sentence, target).tolist()
        assert found.log_probs == pytest.approx(expected, abs=2e-4)


def test_a_model_that_ships_translates_the_same_in_ctranslate2(tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs the extra `export`")
    ours = Translator.from_pretrained("multi30k-de-en")
    assert main(["export", "multi30k-de-en", str(tmp_path / "out"), "--to", "ctranslate2"]) == 0
    engine = ctranslate2.Translator(str(tmp_path / "out"), compute_type="float32")
    found = engine.translate_batch([ours.src_vocab.tokenize(s) for s in GERMAN], beam_size=1)
    texts = [ours.tgt_vocab.join(result.hypotheses[0]) for result in found]
    assert texts == ours.translate(GERMAN, beam_size=1, alpha=0.0)


# Hugging Face


HOSTILE = [
    "<eos> der Hund<pad> <unk><bos>",
    unicodedata.normalize("NFD", "schläft grün"),
    "\ufeffder\u00adHund\u200b im\u00a0\t Garten\u2028\u200e",
    "der &amp; Hund &lt;&#39;&#x27;&amp;quot; gr&uuml;n gr&#252;n &shy;a&nbsp;b &copycat",
    "a\u2581b \u212b 각 \ufb01 日本 \U0001f469\u200d\U0001f680",
    "",
]


def test_a_model_for_other_engines_normalizes_as_we_do():
    import sentencepiece

    letters = "".join(chr(i) for i in range(33, 127)) + "äöüß각日本"
    for extra in ("", "می\u200cخواهم"):  # a vocabulary that knows a joiner keeps it
        vocab = SubwordVocab.train([*LINES, letters, extra], size=160)
        theirs = sentencepiece.SentencePieceProcessor(model_proto=with_spelling_rules(vocab))
        for text in [*SENTENCES, *HOSTILE, extra]:
            assert theirs.encode(text) == vocab.encode(text), text
        assert theirs.decode(theirs.encode("der  &amp; Hund")) == "der & Hund"


def test_hugging_face_gives_hostile_text_our_ids(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra `export`")
    from transformers import AutoTokenizer

    ours = translator()
    export(ours, tmp_path / "out", "transformers")
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    for text in [*SENTENCES, *HOSTILE]:
        assert tokenizer(text)["input_ids"] == ours.encode([text])[0], text
    assert "normalize_text" in (tmp_path / "out" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("norm_first", [False, True])
def test_hugging_face_gives_our_logits(norm_first, tmp_path):
    pytest.importorskip("transformers", reason="needs the extra `export`")
    from transformers import AutoModelForSeq2SeqLM

    ours = translator(norm_first=norm_first)
    export(ours, tmp_path / "out", "transformers")
    theirs = AutoModelForSeq2SeqLM.from_pretrained(str(tmp_path / "out"))
    kind = "PegasusForConditionalGeneration" if norm_first else "MarianMTModel"
    assert type(theirs).__name__ == kind
    src, tgt = torch.tensor([[5, 6, 7, 3, 0], [9, 8, 4, 11, 3]]), torch.tensor([[2, 5, 6]] * 2)
    with torch.no_grad():
        found = theirs(input_ids=src, attention_mask=src != 0, decoder_input_ids=tgt).logits
        torch.testing.assert_close(found, ours.model(src, tgt), rtol=1e-4, atol=1e-4)


def test_a_model_that_ships_translates_the_same_in_hugging_face(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra `export`")
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    ours = Translator.from_pretrained("multi30k-de-en")
    assert main(["export", "multi30k-de-en", str(tmp_path / "out"), "--to", "transformers"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    model = AutoModelForSeq2SeqLM.from_pretrained(str(tmp_path / "out"))
    inputs = tokenizer(GERMAN, return_tensors="pt", padding=True)
    found = model.generate(**inputs, num_beams=1)
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert texts == ours.translate(GERMAN, beam_size=1, alpha=0.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"positions": "learned"}, "sinusoids, got learned"),
        ({"tie_embeddings": False}, "tied"),
        ({"shared_vocabulary": False}, "one vocabulary"),  # of one size, but not the same
        ({"vocab": WordVocab.train(LINES, "de", min_freq=1)}, "needs subwords"),
    ],
    ids=["learned positions", "not tied", "not shared", "words"],
)
def test_what_hugging_face_has_no_architecture_for_is_refused(changes, reason, tmp_path):
    pytest.importorskip("transformers", reason="needs the extra `export`")
    with pytest.raises(ValueError, match=reason):
        export(translator(**changes), tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()
