"""Prepared corpora: what is on disk is what the vocabularies say, and nothing vanishes unsaid."""

import json

import numpy as np
import pytest

from transformer_lib.cli import main
from transformer_lib.data.corpora import ParallelText
from transformer_lib.data.prepared import Extended, Limits, Prepared, learn_vocabularies, prepare
from transformer_lib.data.textfiles import PairFiles
from transformer_lib.train.subword_dropout import SubwordDropout

SOURCE = ("ein Hund schläft", "eine Katze sieht den Hund", "der Garten ist grün", "ja")
TARGET = ("a dog sleeps", "a cat sees the dog", "the garden is green", "yes " * 30)
TRAIN = ParallelText(SOURCE * 4, TARGET * 4, "train", {"empty line": 2, "nothing": 0})
VAL = ParallelText((*SOURCE[:2], "ja"), (*TARGET[:2], "yes " * 30), "val")


def make(folder, kind="subwords", size=50, **limits):
    said = []
    vocabularies = learn_vocabularies(TRAIN, kind, size, ("de", "en"))
    texts = {"train": TRAIN, "val": VAL}
    about = {"name": "tiny", "target": "en"}
    found = prepare(
        texts, vocabularies, folder, limits=Limits(**limits), about=about, say=said.append
    )
    return found, said


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_the_ids_are_those_of_the_vocabularies(tmp_path, kind):
    corpus, _ = make(tmp_path / "tiny", kind, max_ratio=99.0)
    pairs = corpus.pairs("train")
    assert len(pairs) == len(TRAIN) == 16
    for (source, target), (src, tgt) in zip(TRAIN, pairs, strict=True):
        assert src == corpus.src_vocab.encode(source, eos=True)
        assert tgt == corpus.tgt_vocab.encode(target, bos=True, eos=True)
    assert pairs.lengths == [(len(src), len(tgt)) for src, tgt in pairs]
    assert (corpus.src_vocab is corpus.tgt_vocab) is False


def test_ids_stay_on_disk_until_they_are_asked_for(tmp_path):
    pairs = make(tmp_path / "tiny")[0].pairs("train")
    for array in (*pairs._ids.values(), *pairs._ends.values()):
        assert isinstance(array, np.memmap)
    assert {array.dtype for array in pairs._ids.values()} == {np.dtype(np.int32)}  # any vocabulary


def test_every_batch_of_every_epoch_is_cut_anew(tmp_path):
    corpus, _ = make(tmp_path / "tiny", max_ratio=99.0)
    vocabs, keys = (corpus.src_vocab, corpus.tgt_vocab), []

    class Noting(SubwordDropout):
        def __call__(self, pairs, key):
            keys.append(key)
            return super().__call__(pairs, key)

    pairs, vary = corpus.pairs("train"), Noting(*vocabs, 0.3, 500)
    draws = [{"seed": seed, "epoch": epoch} for seed in (0, 1) for epoch in (0, 1)]
    found = [list(pairs.batches(200, vary=vary, **draw)) for draw in draws]
    assert len(keys) == len(set(keys)) == sum(map(len, found)) >= 8
    again = list(pairs.batches(200, vary=vary, **draws[0]))
    assert all(
        a.src.equal(b.src) and a.tgt.equal(b.tgt) for a, b in zip(again, found[0], strict=True)
    )
    usual = pairs.batches(200, **draws[0])
    assert any(a.src.shape != b.src.shape for a, b in zip(usual, found[0], strict=True))


def test_what_is_dropped_is_counted_with_its_reason(tmp_path):
    corpus, said = make(tmp_path / "tiny", max_length=60, max_ratio=4.0)
    assert corpus.about["splits"]["train"]["dropped"] == {
        "empty line": 2,
        "one side over 4 times longer": 4,
    }
    assert "12 pairs" in said[0] and "dropped: 2 empty line; 4 one side" in said[0]
    _, said = make(tmp_path / "short", max_length=12, max_ratio=4.0)
    assert "longer than 12 tokens" in said[0]


def test_only_training_pairs_are_dropped(tmp_path):
    corpus, said = make(tmp_path / "tiny", max_ratio=4.0)
    assert len(corpus.pairs("val")) == len(corpus.text("val")) == 3
    assert "dropped" not in said[1]


def test_the_text_of_a_split_comes_back(tmp_path):
    corpus, _ = make(tmp_path / "tiny")
    assert (corpus.text("val").source, corpus.text("val").target) == (VAL.source, VAL.target)
    assert corpus.splits == ["train", "val"]
    with pytest.raises(ValueError, match="no split 'test' here; there are train, val"):
        corpus.pairs("test")


def test_the_text_of_the_training_split_comes_back_from_its_ids(tmp_path):
    corpus, _ = make(tmp_path / "tiny", max_ratio=99.0)
    text = corpus.text("train")
    assert text.source == TRAIN.source
    assert text.target == tuple(target.strip() for target in TRAIN.target)  # as normalized


def test_one_pass_has_every_pair_once(tmp_path):
    pairs = make(tmp_path / "tiny", max_ratio=99.0)[0].pairs("train")
    rows = [
        tuple(i for i in row if i)
        for batch in pairs.batches(60, seed=1, epoch=2)
        for row in batch.src.tolist()
    ]
    assert sorted(rows) == sorted(tuple(src) for src, _ in pairs)


def test_a_corpus_without_a_pair_left_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"train: every pair was dropped: .*longer than 2"):
        make(tmp_path / "tiny", max_length=2)
    assert not (tmp_path / "tiny").exists()


def test_impossible_limits_and_kinds_are_refused():
    with pytest.raises(ValueError, match="impossible limits"):
        Limits(max_length=1)
    with pytest.raises(ValueError, match="impossible limits"):
        Limits(max_ratio=0.5)
    with pytest.raises(ValueError, match="subwords or words, not 'letters'"):
        learn_vocabularies(TRAIN, "letters", 50, ("de", "en"))


def test_a_damaged_folder_is_refused(tmp_path):
    make(tmp_path / "tiny")
    path = tmp_path / "tiny" / "corpus.json"
    path.write_text(json.dumps({"name": "other"}))
    with pytest.raises(ValueError, match=r"corpus.json is damaged"):
        Prepared(tmp_path / "tiny")


def pair_files(folder, sources, targets, name="train"):
    paths = folder / f"{name}.de", folder / f"{name}.en"
    for path, lines in zip(paths, (sources, targets), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return PairFiles(*paths, name)


def test_files_and_text_in_memory_make_the_same_folder(tmp_path):
    files = pair_files(tmp_path, TRAIN.source, TRAIN.target)
    vocabularies = learn_vocabularies(TRAIN, "subwords", 50, ("de", "en"))
    same = learn_vocabularies(files, "subwords", 50, ("de", "en"))
    assert [v.to_bytes() for v in same] == [v.to_bytes() for v in vocabularies]
    memory = ParallelText(TRAIN.source, tuple(line.strip() for line in TRAIN.target), "train")
    found = [
        prepare({"train": text, "val": text}, vocabularies, tmp_path / name, say=lambda _: None)
        for name, text in (("memory", memory), ("files", files))
    ]
    assert found[0].sha256 == found[1].sha256


def test_a_vocabulary_is_learned_from_the_sample_alone(tmp_path):
    lines = [f"Wort{chr(ord('a') + i)}" for i in range(26)]
    files = pair_files(tmp_path, lines, lines)
    drawn = {source for source, _ in files.sample(5)}
    assert len(drawn) == 5
    vocab, _ = learn_vocabularies(files, "words", 99, ("de", "en"), sample=5)
    assert len(vocab) == 4  # seen once each
    pieces, _ = learn_vocabularies(files, "subwords", 15, ("de", "en"), sample=5)
    for line in lines:
        assert (pieces.unk_id in pieces.encode(line)) == (
            line not in drawn and line[-1] not in "ort"
        )


def test_text_without_a_pair_is_refused_before_anything_is_learned(tmp_path):
    files = pair_files(tmp_path, ["", "zwei"], ["one", " "])
    with pytest.raises(ValueError, match="train: there is no pair of two sentences"):
        learn_vocabularies(files, "subwords", 50, ("de", "en"))


def test_the_command_says_from_how_many_it_learns_and_refuses_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transformer_lib.cli.prepare.LARGE", 10)
    pair_files(tmp_path, TRAIN.source, TRAIN.target)
    pair = [str(tmp_path / "train.de"), str(tmp_path / "train.en")]
    command = ["prepare", str(tmp_path / "out"), "--corpus", "files", "--source", "de"]
    command += ["--target", "en", "--train", *pair, "--val", *pair, "--vocab-size", "50"]
    assert main([*command, "--sample", "12", "--workers", "1"]) == 0
    assert "learning subwords from 12 of 16 pairs" in capsys.readouterr().out
    for flag in ("--sample", "--workers"):
        assert main([*command, flag, "0", "--force"]) == 2
        assert f"{flag} must be at least 1" in capsys.readouterr().err


def files_of(paths):
    return [str(path) for path in paths.paths]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_more_files_add_what_is_new_and_leave_the_vocabulary_alone(tmp_path, capsys, workers):
    train = pair_files(tmp_path, SOURCE[:3] * 6, TARGET[:3] * 6)
    one = pair_files(tmp_path, [SOURCE[0], "ein Hund", "ein Hund"], [TARGET[0], "dog", "dog"], "a")
    two = pair_files(tmp_path, ["ein Hund", "ein Hund", ""], ["dog", "the dog", "cat"], "b")
    options = ["--corpus", "files", "--source", "de", "--target", "en", "--vocab-size", "40"]
    options += ["--train", *files_of(train), "--val", *files_of(train), "--workers", workers]
    assert main(["prepare", str(tmp_path / "less"), *options]) == 0
    capsys.readouterr()
    options += ["--also", *files_of(one), *files_of(two)]
    assert main(["prepare", str(tmp_path / "more"), *options]) == 0
    assert "1 empty line; 3 already there" in capsys.readouterr().out
    less, both = (Prepared(tmp_path / name) for name in ("less", "more"))
    assert both.tgt_vocab.to_bytes() == less.tgt_vocab.to_bytes()
    assert (len(less.pairs("train")), len(both.pairs("train"))) == (18, 20)  # repeated ones stay
    texts = [
        tuple(v.decode(ids) for v, ids in zip((both.src_vocab, both.tgt_vocab), pair, strict=True))
        for pair in list(both.pairs("train"))[-2:]
    ]
    assert texts == [("ein Hund", "dog"), ("ein Hund", "the dog")]
    assert both.about["splits"]["val"] == less.about["splits"]["val"]


def test_what_was_dropped_before_is_still_told_with_more_files(tmp_path):
    more = pair_files(tmp_path, [*SOURCE[:2], "neu"], [*TARGET[:2], "new"])
    vocabularies = learn_vocabularies(TRAIN, "subwords", 50, ("de", "en"))
    text, said = Extended(TRAIN, [more]), []
    assert len(text) == 19 and text.name == "train"
    for name in ("once", "again"):  # a second pass does not count twice
        prepare({"train": text}, vocabularies, tmp_path / name, say=said.append)
    assert said == [said[0]] * 2 and "2 empty line; 2 already there" in said[0]


def test_damaged_further_files_are_refused(tmp_path, capsys):
    train = pair_files(tmp_path, SOURCE[:3] * 6, TARGET[:3] * 6)
    odd = pair_files(tmp_path, ["a", "b"], ["a"], "odd")
    command = ["prepare", str(tmp_path / "out"), "--corpus", "files", "--source", "de"]
    command += ["--target", "en", "--train", *files_of(train), "--val", *files_of(train)]
    assert main([*command, "--vocab-size", "40", "--also", *files_of(odd)]) == 2
    assert "odd.de has 2 lines, but" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
