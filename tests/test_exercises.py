"""The exercises: what is right passes, what is wrong gets its hint, and nothing ever raises."""

import importlib.util
import inspect
import math
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transformer_lib.decoding import beam_sentence, greedy_sentence
from transformer_lib.lessons import probes
from transformer_lib.lessons.exercises import EXERCISES, check
from transformer_lib.masks import causal_mask, padding_mask
from transformer_lib.model import Transformer

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
STUB = re.compile(r"^lessons\.check\(", re.M)


def said(capsys, number, answer):
    """The one line that the check prints."""
    check(number, answer)
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1 and len(out) < 250, out
    return out.rstrip()


def chapter(path):
    """Return what the numbers of a notebook's exercises start with: 1 to 7, or A to C."""
    return path.stem[1] if path.stem[0] == "0" else path.stem.split("_")[1].upper()


def exercise_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [c for c in cells if c.cell_type == "code" and STUB.search(c.source)]


def run(cells, path):
    """Run cells as a reader would after the notebook's own imports."""
    names = {"__name__": "__main__", "Transformer": Transformer}
    for cell in cells:
        exec(compile(cell.source, path.name, "exec"), names)
    return names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_untouched_cells_say_not_yet_and_solutions_pass(path, capsys):
    cells = exercise_cells(path)
    from transformer_lib import lessons

    run([nbformat.v4.new_code_cell("from transformer_lib import lessons"), *cells], path)
    assert lessons.check is check
    lines = capsys.readouterr().out.splitlines()
    numbers = [number for number in EXERCISES if number.startswith(f"{chapter(path)}.")]
    assert lines == [f"{number}: not yet" for number in numbers]
    start = path.name[:2] if path.name[0] == "0" else path.name[:10]
    solutions = path.parent / "solutions" / f"{start}_solutions.ipynb"
    codes = [c for c in nbformat.read(solutions, as_version=4).cells if c.cell_type == "code"]
    run(codes, solutions)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"✓ {number}" for number in numbers]
    stored = "".join(output.text for cell in codes for output in cell.outputs)
    assert stored.splitlines() == lines


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_a_task_hints_and_a_stub_and_no_solution(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells)
    exercises = text.partition("## Exercises")[2].partition("\n## ")[0]
    assert exercises.strip() and not re.search(r"\bsolutions?\b(?! of)", exercises)
    found = []
    for task, stub in pairwise(cells):
        if stub.cell_type == "code" and STUB.search(stub.source):
            number = re.match(r"### Exercise ([\dABC]\.\d): .+", task.source)[1]
            found.append(number)
            assert "<details><summary>Hint" in task.source
            checked = re.findall(r'lessons\.check\("([\dABC.]+)[a-c]?", (\w+)\)', stub.source)
            assert {number} == {number for number, _ in checked}
            assert all(
                re.search(rf"(def|class) {n}\b|^{n} = .*\.\.\.", stub.source, re.M)
                for _, n in checked
            )
            assert not stub.metadata.get("jupyter")
    assert (4 if chapter(path).isdigit() else 2) <= len(found) <= 7 and found == sorted(found)
    last = next(c for c in cells if c.source.startswith(f"### Exercise {found[-1]}"))
    assert "(challenging)" in last.source and last.source.count("<details>") >= 3


def known_mistakes():
    for number, exercise in EXERCISES.items():
        for hint, wrong in exercise.mistakes.items():
            for i, answer in enumerate(wrong if isinstance(wrong, tuple) else (wrong,)):
                yield pytest.param(number, answer, hint, id=f"{number}-{hint[:20]}-{i}")


@pytest.mark.parametrize(("number", "answer", "hint"), [*known_mistakes()])
def test_a_known_mistake_gets_its_hint(number, answer, hint, capsys):
    mine = type("Mine", (answer,), {}) if isinstance(answer, type) else lambda *a: answer(*a)
    assert said(capsys, number, mine) == f"✗ {number}: {hint}"
    assert len(EXERCISES[number].mistakes) >= 3 or number in ("1.4", "4.1c")


def window(n, width):
    return causal_mask(n).triu(1 - width)


def rope(x, table):
    pairs = torch.view_as_complex(x.double().view(len(x), -1, 2).contiguous())
    turns = torch.complex(*table.double().view(len(x), -1, 2).flip(2).unbind(2))
    return torch.view_as_real(pairs * turns).flatten(1).tolist()


def reads_in_order(word, merges):
    """The same byte-pair encoding by the lowest rank of a pair, as most libraries do it."""
    pieces = list(word)
    while True:
        ranks = {
            merges.index(p): i for i, p in reversed([*enumerate(pairwise(pieces))]) if p in merges
        }
        if not ranks:
            return tuple(pieces)
        i = ranks[min(ranks)]
        pieces[i : i + 2] = ["".join(pieces[i : i + 2])]


def ignore_frames(model, src, limit, beam_size):
    found = beam_sentence(model, src, limit, beam_size, 0.0)[0]
    return torch.tensor(found.ids)


def step_by_hand(model, optimizer, src, tgt):
    model.zero_grad()
    log_probs = model(src, tgt[:, :-1]).log_softmax(-1)
    real = tgt[:, 1:] != 0
    loss = -log_probs.gather(-1, tgt[:, 1:, None])[..., 0][real].mean()
    loss.backward()
    optimizer.step()
    return loss


def with_numbers(found):
    return {"the": found[0], "sees": found[1], "man": found[2], "<pad>": found[3]}


RIGHT = [
    ("1.1", with_numbers([8.0, torch.tensor(4), np.float32(0), 0])),
    ("1.1", lambda: with_numbers(np.array([8, 4, 0, 0]))),
    ("1.2", lambda s, temperature=1.0: (s / temperature - (s / temperature).logsumexp(0)).exp()),
    (
        "1.2",
        lambda s, t: (
            torch.exp((s.double() - s.max()) / t) / torch.exp((s.double() - s.max()) / t).sum()
        ),
    ),
    (
        "1.2",
        lambda s, t: (lambda e: e / e.sum())(np.exp((s.numpy() - s.numpy().max()) / t)).tolist(),
    ),
    ("1.5", reads_in_order),
    ("2.1", lambda i, d: torch.tensor(2 * math.pi * 10_000 ** (i // 2 * 2 / d))),
    ("2.1", lambda i, d: torch.tensor([2 * torch.pi]) / 10_000 ** torch.tensor(-(i - i % 2) / d)),
    ("2.2", {"rank": 1, "own letter": np.bool_(True), "mirrored letter": 0}),
    ("2.4", rope),
    ("3.1", lambda n, T: float(sum(min(i + 1, n) for i in range(T)))),
    ("3.2a", lambda n, w: [[0 <= i - j < w for j in range(n)] for i in range(n)]),
    ("3.2a", lambda n, w: window(n, w).numpy()),
    ("3.2b", lambda width, layers: np.int64(1 + layers * (width - 1))),
    ("3.4", lambda *a: tuple(EXERCISES["3.4"].truth(*a))[::-1]),
    ("3.5", lambda s, t: list(EXERCISES["3.5"].truth(s, t))),
    ("4.1a", (0.2,) * 5),
    ("4.1a", torch.full((5,), 0.2, dtype=torch.float64)),
    ("4.1b", np.full(5, 1 / 5)),
    ("4.1c", np.bool_(False)),
    ("4.3", lambda n, r: np.abs(np.subtract.outer(np.arange(n), np.arange(n))) <= r),
    ("4.4", lambda layer, x, sizes: EXERCISES["4.4"].truth(layer, x, sizes).numpy()),
    (
        "4.5",
        lambda at, k, v, r: (
            (-(torch.cdist(at, k) ** 2) / 2 / r**2).softmax(1).double() @ v.double()
        ),
    ),
    ("5.1", lambda y: y.double().numpy()),
    ("5.3", lambda d: [np.hstack([np.eye(d), -np.eye(d)]), np.vstack([np.eye(d), -np.eye(d)])]),
    (
        "5.3",
        lambda d: (
            torch.cat([2 * torch.eye(d), -torch.eye(d)], 1),
            torch.cat([torch.eye(d) / 2, -torch.eye(d)]).double(),
        ),
    ),
    ("5.4", lambda x, p: torch.stack([nn.Dropout(p)(x) for _ in range(4000)]).mean(0).double()),
    ("6.2", [1, 1]),
    ("6.2", torch.tensor([1, 1])),
    (
        "6.3",
        lambda m, s, t: (
            (-F.cross_entropy(m(s, t[:, :-1]).mT, t[:, 1:], ignore_index=0, reduction="none"))
            .sum(1)
            .tolist()
        ),
    ),
    ("7.1", lambda V, s: -torch.tensor(1 / V).log()),
    ("7.3", lambda peak, d: 1 / peak**2 / d),
    ("7.3", lambda peak, d: int(1 / peak**2 / d)),
    (
        "7.4",
        lambda found: tuple(sorted(found, key=lambda h: -h.log_prob / (len(h.ids) + h.finished))),
    ),
    ("7.5", step_by_hand),
    (
        "7.6",
        lambda model, src, limit: (lambda found: torch.tensor([found]))(
            EXERCISES["7.6"].truth(model, src, limit)
        ),
    ),
]
WRONG = [
    ("1.1", {"the": 8, "sees": 4, "man": 4, "<pad>": 0}, "Look again at man"),
    ("1.1", [8, 4, 0, 0], "expected a dictionary with the keys the, sees, man, <pad>"),
    ("1.1", {"the": "8", "sees": 4, "man": 0, "<pad>": 0}, "Look again at the"),
    ("1.2", lambda s, t=1.0: torch.softmax(s / t, 0), "without `softmax`"),
    ("1.2", torch.softmax, "without `softmax`"),
    ("1.2", lambda s, t=1.0: F.log_softmax(s / t, 0).exp(), "without `log_softmax`"),
    ("1.2", lambda s, t=1.0: torch.exp(s - 1000) / torch.exp(s - 1000).sum(), "largest"),
    ("1.2", torch.tensor([0.6, 0.4, 0.0]), "pass the function itself"),
    ("1.3", lambda word, weight, vocab, k=3: ["cat", "ball", "man"], ""),
    ("1.5", lambda word, merges: ["boot", "s", "haus"], r"right for \('bootshaus'\), not for"),
    ("1.5", lambda word, merges: 1 / 0, "stops with ZeroDivisionError at `.*`"),
    ("1.5", lambda word, merges: print(end=""), "returns None"),
    ("2.1", lambda i, d: [1, 2], "expected one number, got 2 numbers"),
    ("2.2", {"own": True, "mirrored": False, "rank": True}, "three task names"),
    ("2.2", [True, False, True], "three task names"),
    ("2.3", lambda k, d: torch.eye(4), "shape"),
    ("2.4", lambda x, table: x[:, :2], "expected the shape|got the shape"),
    ("3.2a", lambda n, w: window(n, w).int(), "boolean"),
    ("3.2a", lambda n, w: window(n, w).float(), "boolean"),
    ("3.2a", lambda n, w: window(8, 3), ""),
    ("3.1", lambda n, T: 12, "right for \\(3, 5\\)"),
    ("3.4", lambda m, s, t: print(end=""), "returns None"),
    ("3.5", lambda s, t: EXERCISES["3.5"].truth(s, t)[:4], "expected a list of 5|5"),
    ("4.1a", [1] * 5, "add up to 1"),
    ("4.1a", [1, 0, 0, 0, 0], "no key can win"),
    ("4.1a", 0.2, "all five weights"),
    ("4.1b", [0.5, 0.5], "expected 5 numbers, got 2"),
    ("4.1c", True, "the same number"),
    ("4.3", lambda n, r: (torch.arange(n)[:, None] - torch.arange(n)).abs() <= 2, "2 only one"),
    ("4.4", lambda layer, x, sizes: x, ""),
    ("5.1", lambda y: 0.0, "expected the shape"),
    ("5.3", lambda d: EXERCISES["5.3"].truth(d)[::-1], "nn.Linear"),
    ("5.3", lambda d: EXERCISES["5.3"].truth(d + 1), "for d_model = 3"),
    ("5.3", lambda d: 7, "two matrices"),
    ("5.4", lambda x, p: nn.Dropout(p)(x), "single draw"),
    ("5.4", lambda x, p: nn.Dropout(p).eval()(x), "x itself"),
    ("5.5", lambda x, a, f: F.layer_norm(x + a(x), x.shape[-1:]), "without `layer_norm`"),
    ("6.2", (20, 5), "need not run again"),
    ("6.4", nn.Linear, "inherit"),
    ("6.5", lambda model, src, tgt: model(src, tgt)[:, :-1], "expected the shape|got the shape"),
    ("7.1", lambda V, s: 4.605, "V = 100"),
    ("7.3", lambda peak, d: 1955, "both arguments|square"),
    ("7.3", lambda peak, d: 0, "positive"),
    ("7.4", lambda found: found.sort(key=lambda h: h.log_prob), "`sorted`"),
    ("7.5", lambda model, optimizer, src, tgt: print(end=""), "no weight"),
    ("7.6", greedy_sentence, "library"),
    ("7.7", lambda *a: beam_sentence(*a), "without `beam_sentence`"),
]


@pytest.mark.parametrize(("number", "answer"), RIGHT)
def test_a_right_answer_passes_in_any_container_and_dtype(number, answer, capsys):
    assert said(capsys, number, answer) == f"✓ {number}: {EXERCISES[number].passed}"


@pytest.mark.parametrize(("number", "answer", "hint"), WRONG)
def test_a_wrong_answer_gets_a_hint_that_fits(number, answer, hint, capsys):
    line = said(capsys, number, answer)
    assert line.startswith(f"✗ {number}: ") and re.search(hint, line), line


def lowest_possible(V, s):
    return EXERCISES["7.2"].truth(V, s)


class Hostile:
    """An answer that cannot even be looked at."""

    def __getattr__(self, name):
        raise RuntimeError("hands off")

    def __eq__(self, other):
        raise RuntimeError("hands off")


def unfinished(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("number", EXERCISES)
def test_nothing_raises_and_nothing_of_the_reader_is_touched(number, capsys):
    assert said(capsys, number, ...) == f"{number}: not yet"
    assert said(capsys, number, lambda *arguments: ...) == f"{number}: not yet"
    if number != "6.4":  # which wants a class
        assert said(capsys, number, unfinished) == f"{number}: not yet"
    state = torch.get_rng_state()
    for answer in (None, 10**400, "x", {}, [], [[1], 2], Hostile(), lambda: exit(), lambda *a: a):
        assert said(capsys, number, answer).startswith(f"✗ {number}: ")
    assert torch.equal(state, torch.get_rng_state()) and torch.is_grad_enabled()


def test_calling_the_notebooks_own_function_is_no_answer(capsys):
    assert "without `lowest_possible`" in said(capsys, "7.2", lambda V, s: lowest_possible(V, s))
    assert "without `lowest_possible`" in said(capsys, "7.2", lowest_possible)


def test_the_planted_bug_fires_the_probe_that_its_check_names():
    from transformer_lib.config import ModelConfig

    torch.manual_seed(0)
    config = ModelConfig.tiny(20, d_model=16, d_ff=16, n_heads=2, n_layers=2, max_len=32)
    (fired,) = [r.name for r in probes.run_all(EXERCISES["6.4"].truth(config).eval()) if not r]
    assert fired in EXERCISES["6.4"].passed


def test_a_class_that_the_notebook_defines_counts_as_the_librarys(capsys):
    """Notebook 06 defines `Transformer` itself: another object than the library's."""
    spec = importlib.util.spec_from_file_location("notebook", inspect.getfile(Transformer))
    notebook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(notebook)

    class Causal(notebook.Transformer):
        def encode(self, src, maps=None):
            mask = padding_mask(src, self.config.pad_id) & causal_mask(src.size(1))
            return self.encoder(self.embed(src, self.src_embedding), mask, maps)

    assert said(capsys, "6.4", Causal).startswith("✓ 6.4")
