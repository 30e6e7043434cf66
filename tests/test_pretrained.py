"""The models that ship: whole, small, loadable by name, and as good as their result says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from transformer_lib import Translator
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
