"""Whatever the bytes, a reader gives a value or one clear line: hypothesis, and what fuzzing found.

The longer, coverage-guided run is `make fuzz` (tools/fuzz.py); its finds lie in fuzz_corpus/.
"""

import json
import warnings
from dataclasses import fields
from pathlib import Path

import fuzz
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from transformer_lib import ModelConfig, TrainConfig
from transformer_lib.train.settings import RunConfig

FOUND = sorted(path for path in (Path(__file__).parent / "fuzz_corpus").glob("*/*"))
JSON_FILES = ["config", "progress", "manifest", "corpus"]
READERS = [target for target in fuzz.TARGETS if target != "flags"]

slow = [HealthCheck.too_slow]
few = settings(
    max_examples=15, deadline=None, derandomize=True, database=None, suppress_health_check=slow
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@st.composite
def mutated(draw, seeds):
    """The real bytes with a few cut out, changed or put in; or any bytes at all."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 9))] = draw(st.binary(max_size=9))
    return draw(st.sampled_from([bytes(data), draw(st.binary(max_size=60))]))


@pytest.mark.parametrize("target", READERS)
def test_any_bytes_give_a_value_or_one_line(target):
    seeds = fuzz.seeds(target)  # here: hypothesis wants no foreign randomness in a strategy

    @few
    @given(mutated(seeds))
    @example(b"")
    def check(data):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of some wrong files before it refuses
            fuzz.outcome(target, data)

    check()


@pytest.mark.parametrize("target", JSON_FILES)
def test_any_json_gives_a_value_or_one_line(target):
    real = json.loads(fuzz.seeds(target)[0])

    @few
    @given(st.sampled_from(sorted(real)), values, st.booleans())
    def check(name, value, whole):
        forged = value if whole else real | {name: value}
        fuzz.outcome(target, json.dumps(forged).encode("utf-8", "replace"))

    check()


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_a_fuzzer_found_stays_mended(path):
    assert fuzz.outcome(path.parent.name, path.read_bytes()) is not None


def test_the_real_thing_passes_every_reader():
    for target in READERS:
        for data in fuzz.seeds(target):
            assert fuzz.outcome(target, data) is None or target in (
                "text",
                "run",
                "moments",
                "counts",
            )


SIZES = {"src_vocab_size": 16, "tgt_vocab_size": 16}
CONFIGS = {ModelConfig: SIZES, TrainConfig: {}, RunConfig: {}}
numbers = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_any_number_in_a_configuration_is_taken_or_refused(kind):
    kinds = {"int": st.integers(), "float": st.floats()}
    types = {f.name: getattr(f.type, "__name__", f.type) for f in fields(kind)}
    entries = {name: kinds[kind] for name, kind in types.items() if kind in kinds}

    @few
    @given(st.fixed_dictionaries({}, optional=entries))
    def check(changes):
        try:
            kind(**(CONFIGS[kind] | changes))
        except ValueError as error:
            assert len(str(error).splitlines()) == 1 and f"invalid {kind.__name__}" in str(error)

    check()


FLAGS = "steps d-model dropout betas preset max-minutes resume norm-first cooldown threads what"
words = st.sampled_from([f"--{name}" for name in FLAGS.split()]) | st.text(max_size=6)


@settings(few, max_examples=12)
@given(st.lists(words | numbers.map(str), max_size=6))
def test_any_flags_give_a_usage_page_or_one_line(flags):
    assume(not any("\n" in flag for flag in flags))
    fuzz.outcome("flags", "\n".join(flags).encode("utf-8", "replace"))
