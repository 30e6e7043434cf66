"""Judge the answer to an exercise: run it beside a right and several wrong ones, and compare."""

from __future__ import annotations

import copy
import dis
import linecache
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from numbers import Number
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Answer = Callable[..., Any]
NOT_YET = "not yet"
WRONG_KIND = (TypeError, ValueError, RuntimeError, OverflowError, AttributeError)


@dataclass(frozen=True, eq=False)
class Exercise:
    """One exercise: what is right, on which inputs it is tried, and which mistakes are known.

    Args:
        truth: a right answer; for an exercise that asks for a value, a function of no arguments.
        hint: for wrong answers that match no known mistake.
        passed: what a right answer shows.
        inputs: returns the argument tuples, two or more of different sizes; None for a value.
        mistakes: a hint -> the wrong answer, or the wrong answers, that it fits.
        forbidden: names that the answer may not use -> what to do instead.
        measure: `measure(answer, *arguments)` returns what is compared; the default calls the
            answer. It may raise `Hint`.
        tolerance: relative error allowed.
        slack: absolute error allowed.
    """

    truth: Answer
    hint: str
    passed: str
    inputs: Callable[[], Sequence[tuple]] | None = None
    mistakes: Mapping[str, Answer | tuple[Answer, ...]] = field(default_factory=dict)
    forbidden: Mapping[str, str] = field(default_factory=dict)
    measure: Callable[..., Any] = lambda answer, *arguments: answer(*arguments)
    tolerance: float = 1e-4
    slack: float = 1e-6


class Hint(Exception):  # noqa: N818 - not an error of the program
    """Hint for the reader, raised by a `measure` that has seen enough."""


class Raised(NamedTuple):
    """An error of the answer, or what `measure` has to say about it."""

    kind: type[BaseException]
    text: str
    line: str  # the reader's line that raised it, if there is one


def judge(exercise: Exercise, answer: Any) -> str | None:
    """Return None for a right answer, else `NOT_YET` or a hint."""
    if is_untouched(answer):
        return NOT_YET
    if exercise.inputs is not None and not callable(answer):
        return f"pass the function itself, not {describe(answer)}."
    if str(getattr(answer, "__module__", "")).startswith("transformer_lib"):
        return "that is the library's own: write it yourself."
    if not callable(answer):
        value, answer = answer, lambda: value
    for name, instead in exercise.forbidden.items():
        if name in names_used(answer):
            return f"solve this one without `{name}`: {instead}."
    inputs, right = inputs_of(exercise), outcomes(exercise, exercise.truth)
    got = [outcome(exercise, answer, arguments) for arguments in inputs]
    agree = [is_same(g, r, exercise) for g, r in zip(got, right, strict=True)]
    if all(agree):
        return None
    if any(isinstance(g, Raised) and (g.kind, g.text) == (NotImplementedError, "") for g in got):
        return NOT_YET
    for hint, wrong in exercise.mistakes.items():
        for mistake in wrong if isinstance(wrong, tuple) else (wrong,):
            pairs = zip(got, outcomes(exercise, mistake), strict=True)
            if all(is_same(g, bad, exercise) for g, bad in pairs):
                return hint
    first = agree.index(False)
    if isinstance(got[first], Raised) or got[first] is None:
        return stopped(got[first])
    if any(agree):
        example = f"right for {show(inputs, agree.index(True))}, not for {show(inputs, first)}"
        return f"{example}. {exercise.hint[0].upper()}{exercise.hint[1:]}"
    return difference(got[first], right[first], exercise.hint) or (
        exercise.hint + wrong_parts(got[first], right[first], exercise)
    )


@cache
def inputs_of(exercise: Exercise) -> Sequence[tuple]:
    """Return the argument tuples; a value has none."""
    return [()] if exercise.inputs is None else exercise.inputs()


@cache
def outcomes(exercise: Exercise, answer: Answer) -> list:
    """Return what an answer of ours gives for each of the inputs."""
    return [outcome(exercise, answer, arguments) for arguments in inputs_of(exercise)]


def outcome(exercise: Exercise, answer: Answer, arguments: tuple) -> Any:
    """Return what an answer gives for copies of the arguments, or the error that it raises."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            found = exercise.measure(answer, *map(copied, arguments))
            return list(found) if isinstance(found, Iterator) else found
        except Hint as hint:
            return Raised(Hint, str(hint), "")
        except (Exception, SystemExit) as error:
            code = getattr(answer, "__code__", None)
            frames = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if code and frame.filename == code.co_filename
            ]
            line = linecache.getline(frames[-1].filename, frames[-1].lineno) if frames else ""
            text = (str(error).strip().splitlines() or [""])[0]
            return Raised(type(error), text, line.strip())


def copied(value: Any) -> Any:
    """Copy what an answer might change."""
    return copy.deepcopy(value) if isinstance(value, Tensor | nn.Module | list) else value


def is_same(got: Any, right: Any, exercise: Exercise) -> bool:
    """True if two outcomes are equal in value, whatever containers and dtypes hold them."""
    if isinstance(got, Raised) or isinstance(right, Raised):
        return type(got) is type(right) and got[:2] == right[:2]
    if right is None or isinstance(right, str):
        return isinstance(got, str | None) and got == right
    if isinstance(right, Mapping):
        return (
            isinstance(got, Mapping)
            and got.keys() == right.keys()
            and all(is_same(got[key], right[key], exercise) for key in right)
        )
    if isinstance(right, list | tuple):
        parts = elements(got)
        return (
            parts is not None
            and len(parts) == len(right)
            and all(is_same(p, r, exercise) for p, r in zip(parts, right, strict=True))
        )
    a, b = numbers(got), numbers(right)
    if a is None or (b.dtype == torch.bool and b.dim() and a.dtype != torch.bool):
        return False
    if b.dim() == 0 and a.numel() == 1 and a.dim() < 2:
        a = a.reshape(())
    return a.shape == b.shape and torch.allclose(
        a.double(), b.double(), rtol=exercise.tolerance, atol=exercise.slack, equal_nan=True
    )


def stopped(got: Raised | None) -> str:
    """Return what to say about an answer that raises or returns nothing."""
    if got is None:
        return "your function returns None. Is there a `return`? (`list.sort()` returns None, too.)"
    if got.kind is Hint:
        return got.text
    where = f" at `{got.line}`" if got.line else ""
    return f"your code stops with {got.kind.__name__}{where}: {got.text[:100]}"


def difference(got: Any, right: Any, hint: str) -> str:
    """Return what is wrong with the kind, the shape or the type of an answer, or ''."""
    a, b = (None if isinstance(x, Mapping | str) else numbers(x) for x in (got, right))
    if a is None or b is None:
        return "" if describe(got) == describe(right) else expected(got, right)
    if a.shape != b.shape:
        return expected(got, right)
    if b.dtype == torch.bool != a.dtype and b.dim():
        return f"a mask is boolean, True where attention is allowed; yours holds {a.dtype}."
    return f"your answer holds nan. {hint[0].upper()}{hint[1:]}" if a.double().isnan().any() else ""


def expected(got: Any, right: Any) -> str:
    return f"expected {describe(right)}, got {describe(got)}."


def wrong_parts(got: Any, right: Any, exercise: Exercise) -> str:
    """Name the parts of a dictionary or tuple that are wrong, if others are right."""
    if isinstance(right, Mapping):
        pairs = {str(key): (got[key], right[key]) for key in right}
    elif isinstance(right, tuple):
        pairs = {
            f"part {i}": pair for i, pair in enumerate(zip(elements(got), right, strict=True), 1)
        }
    else:
        return ""
    wrong = [name for name, pair in pairs.items() if not is_same(*pair, exercise)]
    return f" Look again at {', '.join(wrong)}." if len(wrong) < len(pairs) else ""


def elements(value: Any) -> list | None:
    """Return the parts of a list, a tuple, a tensor or an array; None for anything else."""
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0:
        return list(value)
    return None


def numbers(value: Any) -> Tensor | None:
    """Return numbers in any container as a tensor; None if there are others, or none of a shape."""
    try:
        if isinstance(value, Tensor):
            return value.detach().cpu()
        if isinstance(value, list | tuple):
            parts = [numbers(part) for part in value]
            return torch.stack(parts) if parts else torch.zeros(0)
        if hasattr(value, "__array__"):
            return torch.as_tensor(value.__array__())
        if isinstance(value, Number):
            whole = isinstance(value, bool)
            return torch.tensor(
                value if whole else float(value), dtype=None if whole else torch.double
            )
    except WRONG_KIND:
        pass
    return None


def describe(value: Any) -> str:
    """Describe the kind and the size of a value in words."""
    if isinstance(value, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, value))}"
    if isinstance(value, str):
        return "text"
    found = numbers(value)
    if found is None:
        if isinstance(value, list | tuple):
            inside = {type(part).__name__ for part in value}
            return f"a list of {len(value)}" + (f" {inside.pop()}" if len(inside) == 1 else "")
        return f"a {type(value).__name__}"
    if found.dim() == 0:
        return "True or False" if found.dtype == torch.bool else "one number"
    if found.dim() == 1:
        return "a list of one number" if len(found) == 1 else f"{len(found)} numbers"
    return f"the shape {tuple(found.shape)}"


def show(inputs: Sequence[tuple], i: int) -> str:
    """Write the short arguments as a call would, or the number of the input."""
    short = [repr(value) for value in inputs[i] if isinstance(value, int | float | str)]
    return f"({', '.join(short)})" if short else f"input {i + 1}"


def is_untouched(answer: Any) -> bool:
    """True for `...`, for a container of them, and for a function or class with an empty body."""
    if answer is ...:
        return True
    if isinstance(answer, Mapping):
        return is_untouched(list(answer.values()))
    if isinstance(answer, list | tuple):
        return any(map(is_untouched, answer))
    if isinstance(answer, type):
        return any(is_untouched(part) for part in vars(answer).values() if callable(part))
    code = getattr(answer, "__code__", None)
    if code is None:
        return False
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "NOP")]
    return all(
        step.opname in ("LOAD_CONST", "RETURN_VALUE", "RETURN_CONST") and step.argval in (None, ...)
        for step in steps
    )


def names_used(answer: Any, seen: Collection[int] = ()) -> set[str]:
    """Return the names of what a function uses, and of what its own helpers use."""
    code = getattr(answer, "__code__", None)
    if code is None or id(code) in seen:
        return {getattr(answer, "__name__", "")}
    found, codes = {answer.__name__}, [code]
    for part in codes:
        found |= {*part.co_names, *part.co_freevars}
        codes += [constant for constant in part.co_consts if isinstance(constant, CodeType)]
    for name in found & answer.__globals__.keys():
        if callable(helper := answer.__globals__[name]):
            own = getattr(helper, "__module__", None) == answer.__module__
            found = found | (names_used(helper, (*seen, id(code))) if own else {name_of(helper)})
    return found


def name_of(value: Any) -> str:
    return getattr(value, "__name__", "")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal random numbers that depend on the shape and the seed alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
