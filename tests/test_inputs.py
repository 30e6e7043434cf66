"""Arguments and settings of the wrong kind or size: one ValueError that names them."""

import inspect
import sys
import threading
import zipfile

import numpy as np
import pytest
import torch
from helpers import tiny
from torch import nn

from transformer_lib import ModelConfig, TrainConfig, Transformer, beam_search, greedy_decode
from transformer_lib.data.devices import choose_device
from transformer_lib.data.encoding import LengthFilter
from transformer_lib.data.extras import MissingPackageError, needs
from transformer_lib.data.files import CheckpointError, check_name, write_folder
from transformer_lib.data.reading import load_state
from transformer_lib.decoding import beam_sentence
from transformer_lib.lessons import probes
from transformer_lib.train.dropout import FastDropout
from transformer_lib.train.folder import RunLog
from transformer_lib.train.run_config import RunConfig
from transformer_lib.training import Evaluation, evaluation_mode, inverse_sqrt_rate
from transformer_lib.translate import explorer
from transformer_lib.translate.scores import check_texts
from transformer_lib.translate.search import check_search, check_source
from transformer_lib.translate.translator import Translator, check_sentences
from transformer_lib.vocab import SubwordVocab, WordTokenizer, learnable, normalize_text

HUGE, SRC = 10**400, torch.tensor([[5, 6, 7, 3], [8, 3, 0, 0]])


def refused(function, *arguments, match, **options):
    """Call a function past the types, which the tests would check first."""
    with pytest.raises(ValueError, match=match) as error:
        inspect.unwrap(function)(*arguments, **options)
    assert "\n" not in str(error.value)


SETTINGS = [
    *((RunConfig, "steps", value) for value in ("3", True, 2.5, HUGE)),
    *((RunConfig, "wait_minutes", value) for value in ("1", float("inf"), float("nan"))),
    (RunConfig, "compile", "no"),
    (RunConfig, "seed", 2**64),
    (RunConfig, "accumulate", 10_001),
    (RunConfig, "select", ["bleu"]),
    *((TrainConfig, "warmup", value) for value in ("3", True, 2.5, HUGE, None)),
    (TrainConfig, "betas", (0.9,)),
    (TrainConfig, "cooldown", (0, HUGE)),
    (TrainConfig, "pad_id", "x"),
    *((LengthFilter, "max_length", value) for value in ("3", True, 1, 2.5)),
    *((LengthFilter, "max_ratio", value) for value in (None, float("nan"))),
    (ModelConfig, "n_layers", 1001),
]


@pytest.mark.parametrize(("kind", "name", "value"), SETTINGS, ids=lambda x: str(x)[:30])
def test_a_setting_of_another_kind_or_size_is_named(kind, name, value):
    config = object.__new__(kind)
    sizes = (10, 10) if kind is ModelConfig else ()
    config.__dict__.update(vars(kind(*sizes)) | {name: value})
    refused(kind.__post_init__, config, match=f"{name} must be ")


@pytest.mark.parametrize("name", ["d_ff", "d_model", "vocab_size"])
def test_a_model_that_no_machine_holds_is_refused(name):
    with pytest.raises(ValueError, match="over 2\\*\\*36 weights"):
        ModelConfig.tiny(**{"vocab_size": 10, name: 10**30})


@pytest.mark.parametrize(
    "sentences",
    [None, 5, (word for word in ["a"]), {"a": 1}, {"a"}, np.int64(3), torch.tensor(3)],
    ids=lambda x: type(x).__name__,
)
def test_only_a_list_is_a_list_of_sentences(sentences):
    refused(check_sentences, sentences, match="give a list of sentences")
    refused(check_texts, ["a"], sentences, match="give a list of sentences")
    refused(check_texts, sentences, ["a"], match="give a list of sentences")


@pytest.mark.parametrize("name", [None, 5, b"a", ["a"]], ids=repr)
def test_only_a_text_or_a_path_is_the_name_of_a_model(name):
    refused(check_name, name, match="the name of a file or folder is a text")


@pytest.mark.parametrize("text", [None, 5, b"a", ["a"], "a \ud800"], ids=repr)
def test_what_is_no_text_is_no_sentence(text):
    refused(normalize_text, text, match="not a text")


@pytest.mark.parametrize("language", ["lex_attrs", "char_classes", "", "de.lex_attrs"])
def test_a_module_of_spacy_is_no_language(language):
    refused(WordTokenizer, language, match="no tokenizer")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        *(({"beam_size": value}, "beam_size") for value in ("3", 2.0, None, True, 10**30)),
        *(({"n_best": value}, "n_best") for value in ("1", 1.0, 10**30)),
        *(({"alpha": value}, "alpha") for value in ("x", None, 1e9, float("nan"))),
    ],
    ids=str,
)
def test_a_search_needs_numbers_that_make_sense(change, match):
    options = {"n_best": 1, "beam_size": 2, "alpha": 0.6, "vocab_size": 20}
    refused(check_search, match=match, **options | change)
    if isinstance(change.get("alpha"), float):
        refused(beam_sentence, tiny(20), SRC[:1], 3, match="alpha", **change)


def test_the_source_of_a_search_is_checked():
    config = ModelConfig.tiny(20)
    for src in (SRC.float(), SRC[0], SRC + 15, SRC - 6, None, SRC.tolist()):
        refused(check_source, src, config, 9, match="whole numbers|out of range")
    refused(check_source, SRC, config, "9", match="extra")
    for search in (greedy_decode, beam_search):  # nothing is said where the width is 0
        padding = search(tiny(20), torch.zeros(2, 1, dtype=torch.long), extra=3)
        assert search(tiny(20), torch.zeros(2, 0, dtype=torch.long), extra=3) == padding


def test_an_id_without_a_token_is_refused():
    vocab = SubwordVocab.train(["a b c d"] * 4, size=9)
    for id in (9, -1):
        with pytest.raises(ValueError, match=f"id {id} is out of range: the vocabulary has 9"):
            vocab.decode([4, id])


def test_long_lines_and_the_marker_of_sentencepiece_are_learned_from(monkeypatch):
    line = " ".join(["word"] * 1300 + ["zyx"] * 5)
    vocab = SubwordVocab.train([line, "▅ qvw"], size=18)
    assert {"z", "y", "x", "q", "v"} <= {vocab.id_to_token(i) for i in range(18)}
    assert learnable(line[:3000]) == [line[:3000]] and " ".join(learnable(line)) == line


def test_the_words_that_spacy_remembers_are_bounded(monkeypatch):
    tokenizer = WordTokenizer("en")
    monkeypatch.setattr("transformer_lib.vocab.MOST_WORDS", 1000)
    assert [tokenizer(f"a{i} b{i}.") for i in range(400)][7] == ["a7", "b7", "."]
    assert len(tokenizer._tokenizer.vocab) <= 1010


# A model that somebody else trains, or that is unusual


def test_threads_that_evaluate_one_model_leave_its_modes_alone():
    model = tiny(20).train()
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    first, second = evaluation_mode(model), evaluation_mode(model)
    first.__enter__(), second.__enter__(), first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == before


def test_a_training_thread_never_meets_evaluation_mode():
    class Other(Transformer):
        """Not what the fast path knows."""

    model = Other(tiny(9).config).train()
    translator = Translator(model, SubwordVocab.train(["a b c d"] * 4, size=9))
    stop, seen = threading.Event(), []

    def train():
        while not stop.is_set():
            seen.append(all(module.training for module in model.modules()))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        translator.translate(["a b"], beam_size=2)
        translator.attention_maps("a b", "c")
    finally:
        stop.set()
        thread.join()
    assert seen and all(seen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_another_default_type_of_tensors_breaks_no_model(dtype, tmp_path):
    vocab = SubwordVocab.train(["a b c d"] * 4, size=9)
    translator = Translator(tiny(9).eval(), vocab)
    translator.save(tmp_path / "model")
    expected = translator.translate(["a b c"])
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        again = Translator.from_pretrained(tmp_path / "model")
        assert again.translate(["a b c"]) == expected
        assert tiny(9)(SRC % 9, SRC % 9).dtype == dtype
    finally:
        torch.set_default_dtype(before)


def test_dropout_of_nearly_all_overflows_no_half():
    x = torch.full((2**18,), 0.5, dtype=torch.float16)
    y = FastDropout(0.99999).train()(x)
    assert y.isfinite().all() and set(y.tolist()) <= {0.0, 32768.0}


def test_a_perplexity_that_overflows_is_infinite():
    assert Evaluation(800.0, 0.0, 1).perplexity == float("inf")


def test_a_model_without_what_a_probe_needs_is_refused():
    ids = torch.tensor([[4, 5, 6, 7]])
    with pytest.raises(ValueError, match=r"needs a model with encode\(src\) and decode"):
        probes.is_causal(nn.Linear(2, 2), ids)
    model = nn.Module()
    model.encode, model.decode = tiny(9).encode, tiny(9).decode
    with pytest.raises(ValueError, match="pass greedy"):
        probes.beam_one_equals_greedy(model, ids)


# Packages that are broken


def test_a_broken_package_is_named():
    problem = r"does not load \(TypeError\('x'\)\): pip install"
    with pytest.raises(MissingPackageError, match=problem), needs("cli"):
        raise TypeError("x")


def test_a_broken_tensorboard_does_not_end_a_run(tmp_path, monkeypatch):
    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name.startswith(("tensorboard", "torch.utils.tensorboard")):
                raise TypeError("Descriptors cannot be created directly")

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert RunLog(tmp_path).board is None


# Files that lie


def test_a_packed_archive_is_not_unpacked(tmp_path):
    path = tmp_path / "training.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**7))
    with pytest.raises(CheckpointError, match="its parts are larger than the file"):
        load_state(path)


def test_the_name_of_a_model_cannot_open_or_close_a_script():
    """`<!--<script` in the name of a folder would make the browser skip all that follows."""
    assert "<" not in explorer._model_script("<!--<script>", {"about": {"title": "</script>"}})


@pytest.mark.parametrize("search", [greedy_decode, beam_search])
@pytest.mark.parametrize(
    ("name", "value"),
    [("eos_id", 20), ("eos_id", -1), ("eos_id", "x"), ("bos_id", 2.7), ("bos_id", None)],
)
def test_a_search_is_refused_an_id_that_the_vocabulary_lacks(search, name, value):
    refused(search, tiny(20).eval(), SRC, match=f"{name} must be an id below 20", **{name: value})


@pytest.mark.parametrize("value", [float("nan"), 0, -5])
def test_a_step_is_counted_from_one(value):
    refused(inverse_sqrt_rate, value, 1e-3, 4000, match="steps count from 1")
    refused(inverse_sqrt_rate, 1, 1e-3, value, match="steps count from 1")


@pytest.mark.parametrize("error", [TypeError("no such dtype"), KeyError("x"), AttributeError("y")])
def test_a_mistake_of_the_caller_is_not_blamed_on_the_disk(tmp_path, error):
    def fill(folder):
        raise error

    with pytest.raises(type(error)) as found:
        write_folder(tmp_path / "new", fill, kind="model")
    assert found.value is error and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("height", ['"><script>alert(1)</script>', 900.5, None, True])
def test_the_height_of_a_frame_is_a_number(height):
    frame = object.__new__(explorer.Explorer)
    refused(explorer.Explorer.__init__, frame, match="height must be a whole", height=height)


@pytest.mark.parametrize("device", ["junk", 0.5, None, "cuda:99", torch.float16])
def test_a_device_that_is_none_is_refused(device):
    refused(choose_device, device, match="device")


def test_a_model_is_opened_on_a_device_that_there_is():
    with pytest.raises(ValueError, match="no device: 'junk'"):
        Translator.open("multi30k-de-en", device="junk")
