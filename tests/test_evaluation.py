"""Scores against independent counts, and the data set's own tokenised files."""

import hashlib
import json
import math
import re

import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF

from transformer_lib import ModelConfig, SubwordVocab, Transformer, Translator, collate, evaluate
from transformer_lib.data.multi30k import has_multi30k, multi30k_folder
from transformer_lib.data.text import ParallelText, read_lines
from transformer_lib.translate.evaluation import (
    Report,
    by_length,
    conditions,
    evaluate_text,
    lc_norm_tok,
    literature_bleu,
    predict,
    words_bleu,
    write_result,
)
from transformer_lib.translate.report import draw_attention, write_report

SOURCE = ("ein Hund schläft im Garten", "ja", "eine Katze sieht den Hund . " * 3)
TARGET = ("A dog sleeps in the garden.", "Yes.", "A cat sees the dog . " * 3)
TEXT = ParallelText(SOURCE, TARGET, "three sentences")
# Of test_2016_flickr.lc.norm.tok.* as the data set publishes them (data/task1/tok, same commit).
PUBLISHED = {
    "de": "c6a33d39d48f9f510de147651316cd9d918e09ad0219df734a2f16b6baccacc4",
    "en": "5b7f32627cf99eced828311b955dae9800bb52bc8b91cf8b6526829e605b29d2",
}


@pytest.fixture(scope="module")
def translator():
    vocab = SubwordVocab.train([*SOURCE, *TARGET] * 3, size=50)
    torch.manual_seed(0)
    return Translator(Transformer(ModelConfig.tiny(50, n_layers=1, d_model=16, d_ff=16)), vocab)


@pytest.fixture(scope="module")
def report(translator):
    return evaluate_text(translator, TEXT, beam_size=2, alpha=0.6, language="en")


def test_the_scores_are_sacrebleus(translator, report):
    hypotheses = translator.translate(list(SOURCE), beam_size=2, alpha=0.6)
    assert report.hypotheses == hypotheses
    metrics = {"BLEU": BLEU(), "BLEU, lower-cased": BLEU(lowercase=True), "chrF": CHRF()}
    for name, metric in metrics.items():
        expected = metric.corpus_score(hypotheses, [list(TARGET)]).score
        assert report.scores[name]["value"] == expected
    assert "case:lc" in report.scores["BLEU, lower-cased"]["how"]
    assert report.search == {"beam_size": 2, "alpha": 0.6}


def test_perplexity_does_not_depend_on_the_batches(translator, report):
    one_at_a_time = predict(translator, TEXT, max_tokens=1)
    vocab = translator.src_vocab
    pairs = [(vocab.encode(s, eos=True), vocab.encode(t, bos=True, eos=True)) for s, t in TEXT]
    whole = evaluate(translator.model, [collate(pairs)])
    assert one_at_a_time.n_tokens == whole.n_tokens
    assert math.isclose(one_at_a_time.loss, whole.loss, rel_tol=1e-5)
    assert math.isclose(report.scores["perplexity"]["value"], whole.perplexity, rel_tol=1e-4)
    assert report.scores["token accuracy, %"]["value"] == pytest.approx(100 * whole.accuracy)


@pytest.mark.skipif(not has_multi30k("test_2016_flickr"), reason="Multi30k is not here")
@pytest.mark.parametrize("language", ["de", "en"])
def test_our_steps_give_the_published_tokenised_files(language):
    raw = read_lines(multi30k_folder() / f"test_2016_flickr.{language}.gz")
    text = "".join(f"{line}\n" for line in lc_norm_tok(raw, language))
    assert hashlib.sha256(text.encode()).hexdigest() == PUBLISHED[language]


def test_words_and_literature_are_tokenised_and_blind_to_case():
    score = literature_bleu(["a dog sleeps in the GARDEN ."], ["A dog sleeps in the garden."], "en")
    assert score["value"] == pytest.approx(100)
    assert "lc.norm.tok" in score["how"] and "tok:none" in score["how"]
    score = words_bleu(["He doesn't run away ."], ["he does n't run away."], "en")
    assert score["value"] == pytest.approx(100)
    assert words_bleu(["a"], ["a"], "xx-none") is None  # spaCy does not know this language


def test_a_predicted_unk_counts_as_wrong(translator, monkeypatch):
    assert words_bleu(["a <unk> ."], ["a dog ."], "en")["value"] < 100
    monkeypatch.setattr(translator.tgt_vocab, "decode", lambda ids: "A <unk> sleeps.")
    assert evaluate_text(translator, TEXT, beam_size=1, alpha=0.0).scores["BLEU"]["value"] < 50


def test_groups_hold_every_sentence_once(report):
    groups = by_length(report, TEXT)
    assert {name: n for name, (_, n) in groups.items()} == {"1-8": 2, "15 and more": 1}
    lines = tuple("w " * n for n in (1, 8, 9, 11, 12, 14, 15))
    edges = ParallelText(lines, lines, "edges")
    groups = by_length(Report("edges", {}, {}, list(lines), 0), edges)
    assert [n for _, n in groups.values()] == [2, 2, 2, 1]


def test_a_result_records_its_conditions(tmp_path, report):
    write_result(tmp_path / "deep" / "x.json", report, training={"step": 7})
    result = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert result["scores"] == report.scores
    assert result["training"] == {"step": 7}
    assert result["conditions"]["versions"]["torch"] == torch.__version__
    assert "hypotheses" not in result
    assert set(conditions()) == {"python", "versions", "device", "threads", "commit"}


def test_a_report_is_a_picture_or_a_page(tmp_path, report, monkeypatch):
    for ending in ("png", "svg"):
        write_report(tmp_path / f"report.{ending}", report, TEXT)
        assert (tmp_path / f"report.{ending}").stat().st_size > 5000
    monkeypatch.setattr("transformer_lib.translate.report.EXAMPLES", 2)
    write_report(tmp_path / "report.html", report, TEXT)
    page = (tmp_path / "report.html").read_text("utf-8")
    for part in ("schläft", "data:image/png;base64,", 'alt="BLEU by', "the first 2 of 3"):
        assert part in page
    assert "Katze" not in page  # the third
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)  # nothing is fetched
    with pytest.raises(ValueError, match=r"not 'report\.doc'"):
        write_report(tmp_path / "report.doc", report, TEXT)


def test_an_attention_map_has_a_title_its_tokens_and_named_axes():
    weights = torch.randn(2, 3).softmax(-1)
    figure = draw_attention(weights, ["dog", "$5"], ["Hund", "5$", "<eos>"], "Where it looks")
    ax, bar = figure.axes
    assert figure.get_suptitle() == "Where it looks"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["dog", "$5"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Hund", "5$", "<eos>"]
    assert [ax.get_ylabel(), ax.get_xlabel()] == ["queries", "keys"]
    assert bar.get_ylabel() == "attention weight"
    assert ax.get_ylim() == (2, 0)  # row 0 is at the top
    assert torch.equal(torch.tensor(ax.collections[0].get_array()).view(2, 3), weights)
    with pytest.raises(ValueError, match=r"\(2, 3\) with 3 row labels and 2 column labels"):
        draw_attention(weights, ["a", "b", "c"], ["d", "e"], "transposed")
