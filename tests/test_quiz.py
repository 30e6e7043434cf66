"""The quiz, whose numbers and shapes are computed here, and the teacher's guide."""

import itertools
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import quiz_sheet
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from torch import nn
from torch.nn import functional as F

from transformer_lib import lessons
from transformer_lib.attention import MultiHeadAttention, attention, split_heads
from transformer_lib.config import ModelConfig
from transformer_lib.decoding import length_penalty
from transformer_lib.embeddings import OutputProjection, TokenEmbedding
from transformer_lib.feed_forward import FeedForward, layer_norm
from transformer_lib.layers import Encoder
from transformer_lib.lessons.exercises import EXERCISES
from transformer_lib.lessons.questions import all_questions, answer_html, question_html
from transformer_lib.masks import causal_mask, padding_mask, target_mask, teacher_forcing
from transformer_lib.model import Transformer
from transformer_lib.positional import SinusoidalPositionalEncoding, sinusoidal_table
from transformer_lib.training import label_smoothed_loss, noam_rate
from transformer_lib.translate.scores import bleu

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "teaching.md").read_text("utf-8")
QUESTIONS = {question["id"]: question for question in all_questions()}


def ids(*shape):
    return torch.ones(shape, dtype=torch.long)


def count(*modules):
    """Number of parameters; a shared tensor counts once."""
    return sum(p.numel() for p in {p for module in modules for p in module.parameters()})


def lookup_of_unit_row():
    embedding = TokenEmbedding(2, 64)
    with torch.no_grad():
        embedding.weight[1] = F.normalize(torch.ones(64), dim=0)
    return embedding(ids(1, 1)).norm().item()


def tied_parameters():
    embedding = TokenEmbedding(10_000, 128)
    return count(embedding, OutputProjection(embedding.weight))


def uniform_loss(n):
    return F.cross_entropy(torch.zeros(1, n), torch.tensor([1]))


def wavelength():
    sine, cosine = sinusoidal_table(2, 4, torch.float64)[1, 2:]
    return 2 * math.pi / math.atan2(sine, cosine)


def share_right_without_order(n):
    """Guess the letters of every order from left to right, knowing which are left."""
    orders = itertools.permutations(range(n))
    right = [sum(1 / len(set(order[t:])) for t in range(n)) / n for order in orders]
    return 100 * sum(right) / len(right)


def weights(scores, mask=None):
    """Weights that `attention` gives to one query or several with these scores."""
    scores = torch.tensor(scores)
    identity = torch.eye(scores.size(-1))
    query = scores * math.sqrt(scores.size(-1))
    return attention(query, identity, identity, mask)[1]


def first_weight():
    query, keys = torch.tensor([[2.0, 0, 0, 0]]), torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 0]])
    return attention(query, keys, keys)[1][0, 0]


def relu_unit():
    layer = FeedForward(2, 1)
    with torch.no_grad():
        layer.expand.weight.copy_(torch.tensor([[1.0, -1.0]]))
        layer.expand.bias.zero_(), layer.contract.weight.fill_(1), layer.contract.bias.zero_()
    return layer(torch.tensor([[[2.0, 5.0]]]))[0, 0, 0].item()


def narrow(**sizes):
    """A model with the base model's layers and heads, narrow so that it is built quickly."""
    sizes = {"d_model": 16, "d_ff": 16} | sizes
    return Transformer(ModelConfig.base(100, **sizes)).eval()


def modules(kind):
    return sum(isinstance(module, kind) for module in narrow().modules())


def size(n_ids):
    """Millions of parameters with the base model's width; its other parts cancel out."""
    return count(Transformer(ModelConfig.base(n_ids, n_layers=1, d_ff=8))) / 1e6


def smoothed_target():
    """q = p - dL/dz, where the logits z are all equal and p is 1/20."""
    logits = torch.zeros(1, 20, requires_grad=True)
    label_smoothed_loss(logits, torch.tensor([7]), 0.1)[0].backward()
    return 1 / 20 - logits.grad[0, 7]


def best_of_two_beams():
    after = {"the": [0.3, 0.2], "a": [0.9, 0.1]}
    return max(p * q for p, word in ((0.7, "the"), (0.3, "a")) for q in after[word])


def short_translation():
    words = "old men give small children large balls today and tomorrow".split()  # noqa: SIM905
    return bleu([" ".join(words[:8])], [" ".join(words)]).value


def clipped():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = 1000 * torch.ones(4)  # the gradient has length 2
    nn.utils.clip_grad_norm_([parameter], 1.0)
    return (parameter.grad / 1000).norm()


def attention_of_images():
    maps = []
    config = ModelConfig(10, 10, d_model=16, n_heads=4, n_layers=1, d_ff=16)
    Encoder(config)(torch.ones(32, 17, 16), None, maps)
    return maps[0]


def added_gradients():
    """Gradient of four added means, divided by that of one mean over all."""
    weight, data = torch.ones(1, requires_grad=True), torch.arange(1.0, 9).view(4, 2)
    (added,) = torch.autograd.grad(sum((weight * part).mean() for part in data), weight)
    (true,) = torch.autograd.grad((weight * data).mean(), weight)
    return added / true


def flagged_weight():
    query, keys, values = torch.ones(1, 1, 4), torch.ones(1, 5, 4), torch.eye(5)[None]
    return F.scaled_dot_product_attention(query, keys, values, is_causal=True)[0, 0, 0]


def language_model():
    embedding = TokenEmbedding(216, 16)
    encoder = Encoder(ModelConfig(216, 216, d_model=16, n_heads=2, n_layers=1, d_ff=16))
    x = encoder(embedding(ids(2, 9)), target_mask(ids(2, 9)))
    return OutputProjection(embedding.weight)(x)


def text_perplexity(*probabilities):
    return torch.tensor(probabilities).log().neg().mean().exp()


def two_likeliest():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    return logits.masked_fill(logits < logits.topk(2).values[-1], -torch.inf).softmax(-1)[0]


COMPUTED = {
    "1.2": lambda: TokenEmbedding(216, 32)(ids(4, 7)),
    "1.3": lookup_of_unit_row,
    "1.4": lambda: torch.div(*torch.tensor([3.0, 1.0]).softmax(0)),
    "1.5": lambda: uniform_loss(1000),
    "1.7": lambda: OutputProjection(TokenEmbedding(216, 32).weight)(torch.ones(4, 7, 32)),
    "1.8": tied_parameters,
    "2.2": lambda: sinusoidal_table(10, 4)[0, 3],
    "2.3": wavelength,
    "2.4": lambda: SinusoidalPositionalEncoding(64)(torch.ones(2, 9, 64)),
    "2.6": lambda: sinusoidal_table(9, 8)[3, :2] @ sinusoidal_table(9, 8)[8, :2],
    "2.7": lambda: share_right_without_order(4),
    "3.1": lambda: causal_mask(5).sum(),
    "3.2": lambda: padding_mask(ids(3, 11)),
    "3.3": lambda: target_mask(ids(3, 9)),
    "3.4": lambda: weights([[1.0, 2.0, 3.0]], torch.tensor([[True, True, False]]))[0, 1],
    "3.7": lambda: teacher_forcing(ids(3, 12))[0],
    "3.9": lambda: causal_mask(1, 6).sum(),
    "4.1": first_weight,
    "4.2": lambda: attention(*(torch.ones(2, 4, n, 8) for n in (5, 7, 7)))[1],
    "4.3": lambda: split_heads(torch.ones(2, 5, 32), 4),
    "4.5": lambda: count(MultiHeadAttention(64, 8)),
    "4.9": lambda: weights(torch.zeros(5, 5).tolist(), causal_mask(5))[1, 0],
    "5.1": lambda: count(FeedForward(8, 32)),
    "5.2": lambda: FeedForward(512, 2048).expand(torch.ones(2, 7, 512)),
    "5.3": relu_unit,
    "5.4": lambda: layer_norm(torch.tensor([0.0, 0, 0, 4]), torch.ones(4), torch.zeros(4))[3],
    "5.7": lambda: nn.Dropout(0.2)(torch.full((1000,), 2.0)).max(),
    "6.1": lambda: modules(MultiHeadAttention),
    "6.2": lambda: Transformer(ModelConfig(283, 216, n_layers=1))(ids(2, 11), ids(2, 13)),
    "6.3": lambda: narrow().attention_maps(ids(2, 11), ids(2, 13)).cross,
    "6.5": lambda: modules(nn.LayerNorm),
    "6.8": lambda: size(37_000) - size(8_000),
    "7.1": lambda: F.nll_loss(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])),
    "7.2": smoothed_target,
    "7.3": lambda: noam_rate(4000) / noam_rate(16_000),
    "7.4": lambda: Transformer(ModelConfig.tiny(24))(ids(64, 9), teacher_forcing(ids(64, 12))[0]),
    "7.7": best_of_two_beams,
    "7.8": short_translation,
    "7.9": lambda: length_penalty(7, 1.0),
    "A.2": added_gradients,
    "A.3": lambda: torch.cat([torch.full((2,), 1.0), torch.full((8,), 2.0)]).mean(),
    "A.4": lambda: narrow().attention_maps(ids(1, 11), ids(1, 13)).cross[-1, 0].mean(0),
    "A.5": flagged_weight,
    "A.8": clipped,
    "B.1": lambda: F.unfold(torch.zeros(1, 1, 32, 32), 4, stride=4).size(-1) + 1,
    "B.2": lambda: F.unfold(torch.zeros(32, 1, 8, 8), 4, stride=4).mT,
    "B.3": lambda: count(nn.Linear(4, 64)),
    "B.4": attention_of_images,
    "B.8": lambda: uniform_loss(10),
    "C.1": lambda: text_perplexity(*[1 / 8] * 5),
    "C.2": lambda: text_perplexity(1 / 2, 1 / 4, 1 / 8),
    "C.3": language_model,
    "C.4": lambda: torch.div(torch.tensor([2.0, 0.0]), 2).softmax(-1)[0],
    "C.6": two_likeliest,
}
SERIES = [*(f"0{n}" for n in range(1, 8)), *"ABC"]


def test_every_number_and_shape_is_computed_here():
    assert set(COMPUTED) == {id for id, q in QUESTIONS.items() if q["kind"] != "choice"}


@pytest.mark.parametrize("id", COMPUTED)
def test_the_answer_is_what_the_library_gives_and_no_wrong_one_passes(id):
    question, value = QUESTIONS[id], COMPUTED[id]()
    wrong = [w["answer"] for w in question["wrong"]]
    assert wrong
    if question["kind"] == "shape":
        assert question["answer"] == list(value.shape)
        assert question["answer"] not in wrong
        return
    for answer, expected in [(question["answer"], True), *((w, False) for w in wrong)]:
        close = abs(float(value) - answer) <= question["tolerance"] + 1e-6
        assert close is expected, f"{float(value)} and {answer}"


def test_each_notebook_has_about_eight_complete_questions():
    assert len(QUESTIONS) == len(all_questions())
    for notebook in SERIES:
        mine = [q for q in QUESTIONS.values() if q["notebook"] == notebook]
        assert 7 <= len(mine) <= 10 and {q["kind"] for q in mine} == {"choice", "number", "shape"}
        assert all(q["id"].startswith(f"{notebook.lstrip('0')}.") for q in mine)
    for q in QUESTIONS.values():
        parts = q.get("choices") or [*q["wrong"], q]
        assert all(part["why"].strip().endswith(".") for part in parts)
        if q["kind"] == "choice":
            assert sum(c["right"] for c in q["choices"]) == 1 and len(q["choices"]) >= 3


def test_the_right_choice_has_no_favorite_letter():
    rights = [
        [c["right"] for c in q["choices"]].index(True)
        for q in QUESTIONS.values()
        if q["kind"] == "choice"
    ]
    assert all(4 <= rights.count(place) <= len(rights) / 2 for place in range(3))


class Tags(HTMLParser):
    """Check that tags are closed in order, and count them."""

    def __init__(self, source):
        super().__init__()
        self.open, self.seen = [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def shown(notebook):
    """What `lessons.quiz` displays in a notebook."""
    InteractiveShell.instance()
    with capture_output() as captured:
        lessons.quiz(notebook)
    (output,) = captured.outputs
    return output.data


@pytest.mark.parametrize("notebook", ["04", 7])
def test_the_notebook_shows_every_answer_folded_and_needs_no_script(notebook):
    data = shown(notebook)
    tags = Tags(data["text/html"]).seen
    number = sum(q["notebook"] == f"0{int(notebook)}" for q in all_questions())
    assert tags.count("details") == tags.count("summary") == number
    assert "script" not in tags and "style" not in tags
    assert data["text/plain"].count("\n") == number - 1


def test_an_unknown_notebook_is_refused():
    with pytest.raises(ValueError, match="notebook '12'; choose one of 01, "):
        lessons.quiz("12")


def test_markup_of_questions_is_shown_as_such():
    for q in QUESTIONS.values():
        text = question_html(q) + answer_html(q)
        assert "`" not in text and "*" not in text
    assert "<code>&lt;bos&gt;</code>" in question_html(QUESTIONS["3.7"])


def test_the_sheet_has_the_answers_on_a_page_of_their_own(tmp_path):
    quiz_sheet.main(["--to", str(tmp_path)])
    pages = sorted(tmp_path.iterdir())
    assert [page.name for page in pages] == [f"{name}.html" for name in SERIES]
    for page in pages:
        text = page.read_text("utf-8")
        Tags(text.partition("\n")[2])
        asked, answers = text.split("<h2>")
        right = "</strong> is right"
        assert "break-before: page" in asked and right in answers and right not in asked


def markdown_of(notebook):
    start = notebook if notebook.isdigit() else f"appendix_{notebook.lower()}"
    (path,) = (ROOT / "notebooks").glob(f"{start}_*.ipynb")
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


@pytest.mark.parametrize("notebook", SERIES)
def test_the_guide_has_the_minutes_and_exercises_of_each_notebook(notebook):
    text = markdown_of(notebook)
    (minutes,) = re.findall(r"^\*\*Core: .*\*\*$", text, re.M)
    (page,) = re.findall(rf"^## {notebook} .*\n\n((?:.|\n)*?)(?=^## )", GUIDE, re.M)
    assert page.startswith(minutes)
    kind = r"\d" if notebook.isdigit() else "[A-C]"
    named = set(re.findall(rf"\b{kind}\.\d\b(?! %)", page.partition("**Ask**")[0]))
    assert named and all(n[0] == notebook[-1] for n in named)
    assert all(any(known.rstrip("abc") == n for known in EXERCISES) for n in named)
    questions = page.partition("**Ask**")[2].partition("**Board**")[0]
    assert 3 <= len(re.findall(r"^\d\. .*\? \*.+\*$", questions, re.M)) <= 5


def test_the_first_plan_names_sections_that_exist_and_fills_ninety_minutes():
    plan = GUIDE.partition("## Plan A")[2].partition("## Plan B")[0]
    rows = re.findall(r"^\| (\d):(\d\d) \|.*\| (.*?) ?\|$", plan, re.M)
    starts = [60 * int(hours) + int(minutes) for hours, minutes, _ in rows]
    assert starts == sorted(set(starts)) and (starts[0], starts[-1]) == (0, 90)
    for notebook, sections in re.findall(r"\b(0[1-7]), (.*)", "\n".join(row[2] for row in rows)):
        for section in re.findall(r"\*(.+?)\*", sections):
            assert re.search(rf"^#+ {re.escape(section)}", markdown_of(notebook), re.M), section


def exercise_minutes(text):
    """Minutes of the exercises that a text names, by the level in their headings."""
    minutes = {"easy": 5, "medium": 10, "harder": 20, "challenging": 30}
    tasks = "\n".join(map(markdown_of, SERIES[:7]))
    levels = dict(re.findall(r"^### Exercise (\d\.\d): .*\((\w+)\)$", tasks, re.M))
    return sum(minutes[levels[number]] for number in re.findall(r"\b[1-7]\.\d\b", text))


def test_the_second_plan_adds_up():
    plan = GUIDE.partition("## Plan B")[2].partition("## How to grade")[0]
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\| \d.*$", plan, re.M)]
    assert len(rows) == 6
    for *_, reading, tasks, homework in rows:
        read, solve, alone = (
            int(re.search(r"\((\d+)\)$", part)[1]) for part in (reading, tasks, homework)
        )
        assert read <= 40 and solve == exercise_minutes(tasks) <= 15
        assert alone - exercise_minutes(homework) >= 5  # and something to read
        for notebook, section in re.findall(r"(0\d)(?: from| to) \*(.+?)\*", reading):
            assert re.search(rf"^#+ {re.escape(section)}", markdown_of(notebook), re.M)
