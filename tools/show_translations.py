"""Show what the two models that ship make of held-out captions, next to a person's translation.

The captions are chosen by a rule and not by their translations: all ten of data/captions, which
were written for this purpose, and every 200th of Multi30k's test set where it is at hand.
"""

from pathlib import Path

from transformer_lib.corpora import MissingDataError, multi30k, read_pairs
from transformer_lib.translate.scores import chrf
from transformer_lib.translate.translator import Translator

CAPTIONS = Path(__file__).resolve().parents[1] / "data" / "captions"
LANGUAGES = {"de": "German", "en": "English"}
STEP = 200  # captions of the test set from one to the next that is shown
ABOUT = """
Two models of the same size that trained for longer come with the library. They know captions of
photographs and nothing else: other sentences come out as captions or as nonsense."""


def held_out(source, target):
    """Return lists of pairs, none of them trained on, by the rule that chose them."""
    pairs = read_pairs(CAPTIONS / f"captions.{source}", CAPTIONS / f"captions.{target}")
    texts = {"all ten captions of data/captions, written for this": list(pairs)}
    try:
        test = multi30k("test_2016_flickr", source, target)
    except MissingDataError:
        return texts
    rule = f"every {STEP}th caption of Multi30k's test_2016_flickr, from the first one on"
    return texts | {rule: list(test)[::STEP]}


def show(source, target):
    """Print the translations from one language to the other, and their score."""
    name = f"multi30k-{source}-{target}"
    translator = Translator.from_pretrained(name)
    for rule, pairs in held_out(source, target).items():
        sources, references = zip(*pairs, strict=True)
        translations = translator.translate(list(sources))
        print(f"\n{name}, {rule}:\n")
        for lines in zip(sources, translations, references, strict=True):
            for label, line in zip((LANGUAGES[source], "model", "person"), lines, strict=True):
                print(f"  {label:<8} {line}")
            print()
        score = chrf(translations, list(references))
        print(
            f"  chrF of these {len(pairs)}: {score.value:.1f} (100 if every letter is the person's)"
        )


def main():
    print(ABOUT)
    for pair in (("de", "en"), ("en", "de")):
        show(*pair)


if __name__ == "__main__":
    main()
