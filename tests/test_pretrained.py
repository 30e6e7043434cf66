"""The models that ship: whole, small, loadable by name, and as good as their result says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transformer_lib import Translator
from transformer_lib.cli import main
from transformer_lib.data.multi30k import has_multi30k, multi30k
from transformer_lib.translate.evaluation import evaluate_text
from transformer_lib.translate.translator import find_pretrained

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["multi30k-de-en", "multi30k-en-de"]
RESULTS = {name: ROOT / "results" / f"{name}.json" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_found_by_name_small_and_translates(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # from anywhere
    translator = Translator.open(name)
    source, wanted = "Eine Frau trinkt Kaffee.", "A woman is drinking coffee."
    if name.endswith("en-de"):
        source, wanted = "A woman is drinking coffee.", "Eine Frau trinkt Kaffee."
    assert translator.translate([source, ""]) == [wanted, ""]
    folder = find_pretrained(name)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000
    for path in [*folder.glob("*.json"), RESULTS[name]]:
        assert not re.search("/(home|root|work|tmp)", path.read_text("utf-8"))
    maps, sources, _ = translator.attention_maps(source, wanted)
    assert maps.cross.shape[:3] == (4, 1, 4) and sources[-1] == "<eos>"


CAPTIONS = {
    "multi30k-de-en": ["Ein Hund läuft durch den Schnee.", "Zwei Kinder spielen im Park."],
    "multi30k-en-de": ["A dog runs through the snow.", "Two children play in the park."],
}
STRANGE = {
    "multi30k-de-en": [
        *("Hallo!", "Herzlichen Glückwunsch zum Geburtstag!", "Bonjour, comment allez-vous ?"),
        "Bei der Untersuchung wurde eine Lungenentzündung festgestellt.",
        "Der Präsident kündigte gestern neue Wirtschaftssanktionen an.",
    ],
    "multi30k-en-de": [
        *("Hello!", "Happy birthday to you!", "Bonjour, comment allez-vous ?"),
        "The examination revealed pneumonia.",
        "The president announced new economic sanctions yesterday.",
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_unlike_a_caption_is_doubted(name, capsys):
    """The first three lines are named, then counted; captions pass without a word."""
    lines = [*CAPTIONS[name], *STRANGE[name], *CAPTIONS[name]]
    assert main(["translate", name, *lines]) == 0
    out, err = capsys.readouterr()
    warnings = err.splitlines()
    assert len(out.splitlines()) == len(lines)
    for number, warning in zip((3, 4, 5), warnings, strict=False):
        assert warning.startswith(f"warning: line {number} is unlike the training text")
    assert warnings[3:] == ["warning: 2 more lines are unlike the training text"]


@pytest.mark.parametrize("name", NAMES)
def test_no_entity_is_written_where_the_captions_have_an_ampersand(name):
    """16 training captions hold `&amp;`; a model that read them so writes it for every &."""
    lines = (ROOT / "data" / "captions" / f"captions.{name.split('-')[1]}").read_text("utf-8")
    lines = re.sub(r"\b(and|und|ein|eine|a)\b", r"\1 &", lines, flags=re.IGNORECASE).splitlines()
    more = ["Ein Mann & eine Frau lachen.", "A man & a woman laugh.", 'Ein Mann &amp; ein "Hund".']
    for line in Translator.open(name).translate([*lines, *more], beam_size=1):
        assert not re.search(r"& ?\w+ ?;|\b(amp|quot)\b", line), line


def test_the_picture_of_the_attention_is_told(tmp_path, capsys):
    path = tmp_path / "map.png"
    assert main(["translate", NAMES[0], CAPTIONS[NAMES[0]][0], "--attention", str(path)]) == 0
    assert f"the attention of line 1; written to {path}" in capsys.readouterr().err
    path.unlink()
    (tmp_path / "none").touch()
    arguments = ["--file", str(tmp_path / "none"), "--attention", str(path)]
    assert main(["translate", NAMES[0], *arguments]) == 0
    assert f"no line to translate: {path} was not written" in capsys.readouterr().err
    assert not path.exists()


def test_an_installed_package_holds_the_models(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in NAMES:
        assert (tmp_path / "transformer_lib" / "pretrained" / name / "manifest.json").is_file()
    assert "graft data/pretrained\n" in (ROOT / "MANIFEST.in").read_text()


def test_an_unknown_name_lists_what_ships():
    with pytest.raises(FileNotFoundError, match=r"known: multi30k-de-en, multi30k-en-de"):
        find_pretrained("multi30k-fr-en")


@pytest.mark.skipif(not has_multi30k("test_2016_flickr"), reason="Multi30k is not here")
@pytest.mark.parametrize("name", NAMES)
def test_the_score_is_the_one_on_the_card(name):
    result = json.loads(RESULTS[name].read_text())
    source, target = name.split("-")[1:]
    text = multi30k("test_2016_flickr", source, target)
    found = evaluate_text(Translator.from_pretrained(name), text, **result["search"])
    for measure in ("BLEU", "BLEU, lower-cased", "chrF"):
        assert found.scores[measure]["value"] == pytest.approx(
            result["scores"][measure]["value"], abs=0.1
        )  # rounding differs between machines, and a tie may fall the other way
