"""Scores against independent counts, and the data set's own tokenized files."""

import hashlib
import json
import math
import re

import pytest
import torch
from helpers import pair_files, silent
from sacrebleu.metrics import BLEU, CHRF

from transformer_lib import ModelConfig, SubwordVocab, Transformer, Translator, collate, evaluate
from transformer_lib.cli import main
from transformer_lib.data.encoding import prepare
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


def test_a_line_that_is_too_long_is_named_and_counts_as_an_empty_translation(
    translator, monkeypatch
):
    n = 30
    monkeypatch.setitem(vars(translator.model.config), "max_len", n)
    pairs = [(SOURCE[1], TARGET[1]), ("ja " * n, TARGET[0]), (SOURCE[0], "a " * n)]
    text = ParallelText(*map(tuple, zip(*pairs, strict=True)), "long")
    warned = {}
    report = evaluate_text(translator, text, beam_size=1, alpha=0.0, warn=warned.__setitem__)
    assert report.hypotheses[:2] == [*translator.translate([SOURCE[1]], alpha=0.0, beam_size=1), ""]
    assert [i for i, _ in sorted(warned.items())] == [1, 2]
    assert "tokens, the model takes 30: left empty" in warned[1]
    assert "left out of perplexity" in warned[2]
    alone = predict(translator, ParallelText(SOURCE[1:2], TARGET[1:2], "the one that fits"))
    second, third = (pytest.warns(UserWarning, match=f"sentence {n} has") for n in (2, 3))
    with second, third:
        assert predict(translator, text) == alone
    with pytest.warns(UserWarning, match="sentence 2 has"):
        assert translator.translate([SOURCE[1], text.source[1]]) == report.hypotheses[:2]
    with pytest.raises(ValueError, match=r"\[sentence\]"):
        translator.encode("ein Hund")


@pytest.fixture
def evaluate_files(translator, tmp_path, capsys):
    """Run `evaluate` on a validation text; return status, output and errors."""
    translator.save(tmp_path / "model")

    def run(pairs, *flags):
        val = pair_files(tmp_path, *zip(*pairs, strict=True), "val")
        texts, vocabularies = {"train": TEXT, "val": val}, (translator.src_vocab,) * 2
        prepare(texts, vocabularies, tmp_path / "data", say=silent)
        files = {name: tmp_path / name for name in ("hypotheses", "result")}
        outputs = (word for name, path in files.items() for word in (f"--{name}", str(path)))
        search = ["--beam", "1", "--alpha", "0", *outputs, *flags]
        status = main(
            ["evaluate", str(tmp_path / "model"), "--data", str(tmp_path / "data"), *search]
        )
        return status, *capsys.readouterr(), files

    return run


def test_translations_keep_the_lines_of_the_file_and_what_is_left_out_is_named(
    evaluate_files, translator
):
    status, out, err, files = evaluate_files(
        [(SOURCE[0], TARGET[0]), (SOURCE[1], ""), ("", TARGET[1]), (SOURCE[1], TARGET[1])]
    )
    assert status == 0 and "prepare left out line 2, 3, where a side is empty" in err
    first, last = translator.translate(SOURCE[:2], beam_size=1, alpha=0.0)
    assert files["hypotheses"].read_text("utf-8") == f"{first}\n\n\n{last}\n"
    assert "2 sentences" in out
    for path in files.values():
        assert f"written to {path}" in out


def test_text_that_the_vocabulary_does_not_know_is_warned_about(evaluate_files):
    _, out, err, _ = evaluate_files([("Мальчик играет", "A dog sleeps in the garden.")])
    assert re.search(r"^source +\d\d\.\d% unknown, ", out, re.M)
    assert re.search(r"^references +0\.0% unknown, ", out, re.M)
    assert err.count("are unknown to the vocabulary") == 1 and "warning: source: " in err


def test_results_are_written_before_anything_is_printed(evaluate_files, monkeypatch):
    def fail(*_, **__):
        raise OSError("nobody reads this")

    monkeypatch.setattr("transformer_lib.cli.models.print", fail, raising=False)
    status, _, err, files = evaluate_files([(SOURCE[1], TARGET[1])])
    assert (status, err) == (1, "error: nobody reads this\n")
    assert all(path.is_file() for path in files.values())


def test_chinese_is_counted_by_words_and_grouped_by_characters(translator, monkeypatch):
    target = ("一个男人在雪地里跑步。", "两只狗在草地上睡觉。")
    text = ParallelText(target, target, "Chinese")
    right = iter(target)
    monkeypatch.setattr(translator.tgt_vocab, "decode", lambda ids: next(right))
    report = evaluate_text(translator, text, beam_size=1, alpha=0.0, language="zh")
    for name in ("BLEU", "BLEU, lower-cased", "BLEU, words"):
        assert report.scores[name]["value"] == pytest.approx(100), name
    assert "BLEU, literature" not in report.scores  # its tokenizer splits at spaces
    assert by_length(report, text) == {"9-11": (pytest.approx(100), 2)}


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
    short = ParallelText(("ein", "zwei"), ("one", "two"), "short")
    groups = by_length(Report("short", {}, {}, ["one", "two"], 0), short)
    assert groups == {"1-8": (pytest.approx(100), 2)}


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
    for part in ("schläft", "data:image/png;base64,", 'alt="chrF by', "the first 2 of 3"):
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
