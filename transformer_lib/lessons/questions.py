"""The quiz: about eight questions for each notebook, read from quiz.json and shown as plain HTML.

The answers are in `<details>` elements, so they open without JavaScript, by keyboard as well.
`tools/quiz_sheet.py` prints the same questions, with the answers on a page of their own.
"""

import html
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

Question = dict[str, Any]


@cache
def all_questions() -> list[Question]:
    """All questions of the series, in order."""
    source = files("transformer_lib.lessons") / "quiz.json"
    return json.loads(source.read_text("utf-8"))["questions"]


def questions(notebook: str | int) -> list[Question]:
    """Questions of one notebook, such as "04", or of an appendix, such as "A".

    Raises:
        ValueError: there is no quiz for this notebook.
    """
    found = [q for q in all_questions() if q["notebook"] in (f"{notebook}", f"0{notebook}")]
    if not found:
        known = ", ".join(sorted({q["notebook"] for q in all_questions()}))
        raise ValueError(f"there is no quiz for notebook {notebook!r}; choose one of {known}")
    return found


def quiz(notebook: str | int) -> None:
    """Display the quiz of a notebook, such as "04" or "A"; each answer opens on a click.

    Raises:
        ValueError: there is no quiz for this notebook.
    """
    from IPython.display import display

    found = questions(notebook)
    items = "".join(
        f"<li>{question_html(q)}<details><summary>Answer to question {number}</summary>"
        f"{answer_html(q)}</details></li>"
        for number, q in enumerate(found, 1)
    )
    plain = "\n".join(f"{number}. {q['question']}" for number, q in enumerate(found, 1))
    display({"text/html": f'<ol lang="en">{items}</ol>', "text/plain": plain}, raw=True)


def question_html(question: Question) -> str:
    """Return the question as HTML; choices are lettered from A."""
    choices = "".join(f"<li>{inline(c['text'])}</li>" for c in question.get("choices", ()))
    options = f'<ol type="A">{choices}</ol>' if choices else ""
    return f"<p>{inline(question['question'])}</p>{options}"


def answer_html(question: Question) -> str:
    """Return the right answer and its reason as HTML, then why each tempting one is wrong."""
    if question["kind"] == "choice":
        letters = zip("ABCDEFGH", question["choices"], strict=False)
        judged = [(letter, choice["right"], choice["why"]) for letter, choice in letters]
    else:
        wrong = [(show(w["answer"]), False, w["why"]) for w in question["wrong"]]
        judged = [(show(question["answer"]), True, question["why"]), *wrong]
    lines = [
        f"<strong>{answer}</strong> is {'right' if right else 'wrong'}. {inline(why)}"
        for answer, right, why in sorted(judged, key=lambda row: not row[1])
    ]
    return f"<p>{lines[0]}</p><ul>{''.join(f'<li>{line}</li>' for line in lines[1:])}</ul>"


def show(answer: int | float | list[int]) -> str:
    """Return a number with separators and a true minus sign, or a shape."""
    if isinstance(answer, list):
        return f"({', '.join(map(str, answer))})"
    return f"{answer:,}".replace("-", "−")


def inline(text: str) -> str:
    """Return a line of Markdown as HTML: `code`, *emphasis*, everything else escaped."""
    parts = html.escape(text, quote=False).split("`")
    parts[::2] = [re.sub(r"\*(\S|\S.*?\S)\*", r"<em>\1</em>", part) for part in parts[::2]]
    parts[1::2] = [f"<code>{part}</code>" for part in parts[1::2]]
    return "".join(parts)
