"""Write the quiz of every notebook as a page to print: questions first, answers on a new page."""

import argparse
from pathlib import Path

from transformer_lib.lessons.questions import all_questions, answer_html, question_html, questions

ROOT = Path(__file__).resolve().parents[1]
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quiz of {notebook}</title>
<style>
body {{ font: 11pt/1.4 sans-serif; max-width: 42em; margin: 2em auto; padding: 0 1em; }}
main > ol > li {{ margin-bottom: 0.8em; break-inside: avoid; }}
p, ol, ul {{ margin: 0.25em 0; }}
.line {{ display: inline-block; width: 14em; border-bottom: 1px solid; }}
h2 {{ break-before: page; }}
@page {{ size: A4; margin: 15mm; }}
@media print {{ body {{ font-size: 9.5pt; margin: 0; padding: 0; max-width: none; }} }}
</style>
</head>
<body>
<main>
<h1>Quiz of {notebook}</h1>
<p>Name: <span class="line"></span> Date: <span class="line"></span></p>
<ol>
{questions}
</ol>
<h2>Answers, {notebook}</h2>
<ol>
{answers}
</ol>
</main>
</body>
</html>
"""


def sheet(notebook):
    """Return the page for one notebook."""
    line = '<p>Answer: <span class="line"></span></p>'
    asked = [
        f"<li>{question_html(q)}{'' if q['kind'] == 'choice' else line}</li>"
        for q in questions(notebook)
    ]
    answers = [f"<li>{answer_html(q)}</li>" for q in questions(notebook)]
    name = f"{'notebook' if notebook.isdigit() else 'appendix'} {notebook}"
    return PAGE.format(notebook=name, questions="\n".join(asked), answers="\n".join(answers))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=ROOT / "build" / "quiz", help="folder to fill")
    folder = parser.parse_args(argv).to
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted({q["notebook"] for q in all_questions()}):
        path = folder / f"{notebook}.html"
        path.write_text(sheet(notebook), "utf-8")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
