"""Exercises of notebooks and appendices: `check` runs an answer and prints a line about it."""

from typing import Any

from transformer_lib.lessons.exercises import (
    appendices,
    notebook_01,
    notebook_02,
    notebook_03,
    notebook_04,
    notebook_05,
    notebook_06,
    notebook_07,
)
from transformer_lib.lessons.exercises.checker import NOT_YET, judge

__all__ = ["EXERCISES", "check"]

NOTEBOOKS = (
    notebook_01,
    notebook_02,
    notebook_03,
    notebook_04,
    notebook_05,
    notebook_06,
    notebook_07,
    appendices,
)
EXERCISES = {number: found for part in NOTEBOOKS for number, found in part.EXERCISES.items()}


def check(number: str, answer: Any) -> None:
    """Print ✓, a hint that fits the mistake, or "not yet"; never raise.

    Args:
        number: the exercise, such as "1.2".
        answer: the reader's function, class or value.
    """
    if number not in EXERCISES:
        print(f"{number}: there is no such exercise")
        return
    exercise = EXERCISES[number]
    try:
        hint = judge(exercise, answer)
    except Exception as error:  # an answer that cannot even be looked at
        hint = f"your answer cannot be compared ({type(error).__name__}). {exercise.hint}"
    if hint is None:
        print(f"✓ {number}: {exercise.passed}")
    else:
        print(f"{number}: {hint}" if hint == NOT_YET else f"✗ {number}: {hint}")
