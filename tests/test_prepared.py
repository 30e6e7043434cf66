"""Prepared corpora: what is on disk is what the vocabularies say, and nothing vanishes unsaid."""

import helpers
import pytest
from helpers import pair_files, silent

from transformer_lib import ModelConfig, Transformer, Translator, WordVocab
from transformer_lib.cli import main
from transformer_lib.data.coverage import Coverage, coverage
from transformer_lib.data.encoding import LengthFilter, learn_vocabularies, prepare
from transformer_lib.data.prepared import Prepared
from transformer_lib.data.text import ConcatenatedText, ParallelText

# The last target is thirty times longer than its source.
SOURCE, TARGET = (*helpers.SOURCE[:3], "ja"), (*helpers.TARGET[:3], "yes " * 30)
TRAIN = ParallelText(SOURCE * 4, TARGET * 4, "train", {"empty line": 2, "nothing": 0})
VAL = ParallelText((*SOURCE[:2], "ja"), (*TARGET[:2], "yes " * 30), "val")


def make(folder, kind="subwords", size=50, **limits):
    lines = []
    vocabularies = learn_vocabularies(TRAIN, kind, size, ("de", "en"))
    texts, about = {"train": TRAIN, "val": VAL}, {"name": "tiny", "target": "en"}
    options = {"length_filter": LengthFilter(**limits), "about": about, "say": lines.append}
    return prepare(texts, vocabularies, folder, **options), lines


def command(folder, train, *options):
    """The arguments of `prepare` for files to train and to validate on."""
    pair = [str(path) for path in train.paths]
    languages = ["--source", "de", "--target", "en", "--train", *pair, "--val", *pair]
    return ["prepare", str(folder), "--corpus", "files", *languages, *map(str, options)]


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_ids_and_text_are_those_of_the_vocabularies(tmp_path, kind):
    corpus, _ = make(tmp_path / "tiny", kind, max_ratio=99.0)
    pairs = corpus.pairs("train")
    assert len(pairs) == len(TRAIN) == 16
    for (source, target), (src, tgt) in zip(TRAIN, pairs, strict=True):
        assert src == corpus.src_vocab.encode(source, eos=True)
        assert tgt == corpus.tgt_vocab.encode(target, bos=True, eos=True)
    assert pairs.lengths == [(len(src), len(tgt)) for src, tgt in pairs]
    with pytest.raises(ValueError, match="the text of split 'train' is not kept, only its ids"):
        corpus.text("train")
    assert (corpus.text("val").source, corpus.text("val").target) == (VAL.source, VAL.target)
    assert corpus.splits == ["train", "val"]
    for open_split in (corpus.pairs, corpus.text):
        with pytest.raises(ValueError, match="no split 'test' here; there are train, val"):
            open_split("test")


def test_what_is_dropped_is_counted_with_its_reason(tmp_path):
    corpus, lines = make(tmp_path / "tiny", max_length=60, max_ratio=4.0)
    assert corpus.about["splits"]["train"]["dropped"] == {
        "empty line": 2,
        "one side over 4 times longer": 4,
    }
    assert "12 pairs" in lines[0] and "dropped: 2 empty line; 4 one side" in lines[0]
    # only training pairs are dropped: a test set is scored whole
    assert len(corpus.pairs("val")) == len(corpus.text("val")) == 3 and "dropped" not in lines[1]
    _, lines = make(tmp_path / "short", max_length=12, max_ratio=4.0)
    assert "longer than 12 tokens" in lines[0]
    with pytest.raises(ValueError, match=r"train: every pair was dropped: .*longer than 2"):
        make(tmp_path / "none", max_length=2)
    assert not (tmp_path / "none").exists()


def test_impossible_filters_and_kinds_are_refused():
    for wrong in ({"max_length": 1}, {"max_ratio": 0.5}):
        with pytest.raises(ValueError, match="impossible limits"):
            LengthFilter(**wrong)
    with pytest.raises(ValueError, match="subwords or words, not 'letters'"):
        learn_vocabularies(TRAIN, "letters", 50, ("de", "en"))


def test_files_and_text_in_memory_make_the_same_folder(tmp_path):
    files = pair_files(tmp_path, TRAIN.source, TRAIN.target)
    vocabularies = learn_vocabularies(TRAIN, "subwords", 50, ("de", "en"))
    same = learn_vocabularies(files, "subwords", 50, ("de", "en"))
    assert [v.to_bytes() for v in same] == [v.to_bytes() for v in vocabularies]
    memory = ParallelText(TRAIN.source, tuple(line.strip() for line in TRAIN.target), "train")
    corpora = [
        prepare({"train": text, "val": text}, vocabularies, tmp_path / name, say=silent)
        for name, text in (("memory", memory), ("files", files))
    ]
    assert corpora[0].sha256 == corpora[1].sha256
    (tmp_path / "files" / "corpus.json").write_text("{}")
    with pytest.raises(ValueError, match=r"corpus.json is damaged"):
        Prepared(tmp_path / "files")


def test_a_vocabulary_is_learned_from_the_sample_alone(tmp_path):
    lines = [f"Wort{chr(ord('a') + i)}" for i in range(26)]
    files = pair_files(tmp_path, lines, lines)
    drawn = {source for source, _ in files.sample(5)}
    assert len(drawn) == 5
    vocab, _ = learn_vocabularies(files, "words", 99, ("de", "en"), sample=5)
    assert len(vocab) == 4  # seen once each
    subwords, _ = learn_vocabularies(files, "subwords", 15, ("de", "en"), sample=5)
    for line in lines:
        known = line in drawn or line[-1] in "ort"
        assert (subwords.unk_id in subwords.encode(line)) != known
    files = pair_files(tmp_path, ["", "zwei"], ["one", " "])
    with pytest.raises(ValueError, match="train: there is no pair of two sentences"):
        learn_vocabularies(files, "subwords", 50, ("de", "en"))


def test_the_command_says_from_how_many_it_learns_and_refuses_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transformer_lib.cli.prepare.LARGE", 10)
    train = pair_files(tmp_path, TRAIN.source, TRAIN.target)
    call = command(tmp_path / "out", train, "--vocab-size", 50, "--workers", 1)
    assert main([*call, "--sample", "12"]) == 0
    assert "learning subwords from 12 of 16 pairs" in capsys.readouterr().out
    for flag in ("--sample", "--workers"):
        assert main([*call, flag, "0", "--force"]) == 2
        assert f"{flag} must be at least 1" in capsys.readouterr().err


def test_more_files_add_what_is_new_and_leave_the_vocabulary_alone(tmp_path, capsys):
    train = pair_files(tmp_path, SOURCE[:3] * 6, TARGET[:3] * 6)
    one = pair_files(tmp_path, [SOURCE[0], "ein Hund", "ein Hund"], [TARGET[0], "dog", "dog"], "a")
    two = pair_files(tmp_path, ["ein Hund", "ein Hund", "", ""], ["dog", "the dog", *"xx"], "b")
    options = ["--vocab-size", 40, "--workers", 1]
    assert main(command(tmp_path / "less", train, *options)) == 0
    capsys.readouterr()
    also = ["--also", *one.paths, *two.paths]
    assert main(command(tmp_path / "more", train, *options, *also)) == 0
    assert "2 empty line; 3 already there" in capsys.readouterr().out
    less, both = (Prepared(tmp_path / name) for name in ("less", "more"))
    assert both.tgt_vocab.to_bytes() == less.tgt_vocab.to_bytes()
    assert (len(less.pairs("train")), len(both.pairs("train"))) == (18, 20)  # repeated ones stay
    added = [tuple(map(both.src_vocab.decode, pair)) for pair in both.pairs("train")][-2:]
    assert added == [("ein Hund", "dog"), ("ein Hund", "the dog")]
    assert both.about["splits"]["val"] == less.about["splits"]["val"]
    odd = pair_files(tmp_path, ["a", "b"], ["a"], "odd")
    assert main(command(tmp_path / "out", train, *options, "--also", *odd.paths)) == 2
    assert "odd.de has 2 lines, but" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_was_dropped_before_is_still_told_with_more_files(tmp_path):
    more = pair_files(tmp_path, [*SOURCE[:2], "neu"], [*TARGET[:2], "new"])
    vocabularies = learn_vocabularies(TRAIN, "subwords", 50, ("de", "en"))
    text, lines = ConcatenatedText(TRAIN, [more]), []
    assert len(text) == 19 and text.name == "train"
    for name in ("once", "again"):  # a second pass does not count twice
        prepare({"train": text}, vocabularies, tmp_path / name, say=lines.append)
    assert lines == [lines[0]] * 2 and "2 empty line; 2 already there" in lines[0]


def test_a_split_in_another_language_is_warned_of(tmp_path):
    foreign = ParallelText(("Мальчик играет в снегу",) * 2, ("yes yes",) * 2, "val")
    for kind, part in (("words", 1.0), ("subwords", 0.5)):
        vocabularies, lines = learn_vocabularies(TRAIN, kind, 50, ("de", "en")), []
        texts = {"train": TRAIN, "val": foreign, "test": VAL}
        corpus = prepare(texts, vocabularies, tmp_path / kind, say=lines.append)
        (warning,) = (line for line in lines if line.startswith("warning"))
        assert "val, source" in warning and "are unknown to the vocabulary" in warning
        counts = Coverage(**corpus.about["splits"]["val"]["coverage"]["src"])
        assert counts == coverage(vocabularies[0], foreign.source) and counts.words == 8
        assert counts.unknown_share >= part and f"({counts})" in lines[1]


def test_vocabularies_of_a_model_are_taken_as_they_are(tmp_path, capsys):
    train = pair_files(tmp_path, SOURCE[:3] * 6, TARGET[:3] * 6)
    words = (
        WordVocab.train(text, code, min_freq=1)
        for text, code in zip((SOURCE, TARGET), ("de", "en"), strict=True)
    )
    source, target = words
    config = ModelConfig(len(source), len(target), d_model=8, n_heads=2, n_layers=1, d_ff=8)
    model = Translator(Transformer(config), source, target).save(tmp_path / "model")
    call = [*command(tmp_path / "out", train), "--vocab-from", str(model)]
    assert main(call) == 0
    assert "warning" not in "".join(capsys.readouterr())
    corpus = Prepared(tmp_path / "out")
    assert corpus.about["vocab_from"] == str(model) and corpus.about["vocab"] == "words"
    for found, expected in zip((corpus.src_vocab, corpus.tgt_vocab), (source, target), strict=True):
        assert found.to_bytes() == expected.to_bytes()
    assert main([*call, "--force", "--vocab-size", "50"]) == 2
    assert "are those of the model" in capsys.readouterr().err
    shipped = [*call[:-1], "multi30k-en-de", "--force"]
    assert main(shipped) == 0  # but in the other direction
    assert "multi30k-en-de translates en to de, this corpus is de to en" in capsys.readouterr().err
    assert Prepared(tmp_path / "out").about["vocab"] == "subwords"
    assert main([*call[:-1], str(tmp_path), "--force"]) == 2
