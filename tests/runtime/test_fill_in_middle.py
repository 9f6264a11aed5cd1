"""Prompts for the middle of a text, and the models that cannot fill it in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine, FinishReason, SamplingParams
from inference_pio.runtime.fill_in_middle import MIDDLE, PREFIX, SUFFIX, fill_in_the_middle, fill_prompt
from inference_pio.runtime.tokenizer import Tokenizer

FIRST = 2039
"""Ids of the tiny vocabulary whose tokens make room for those of a coder model."""
TOKENS = (PREFIX, SUFFIX, MIDDLE, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")


@pytest.fixture(scope="module")
def coder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a coder's tokens in place of its last words."""
    out = tmp_path_factory.mktemp("coder") / "checkpoint"
    shutil.copytree(tiny, out)
    tokenizer = json.loads((out / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    gone = {token for token, number in vocabulary.items() if FIRST <= number < FIRST + len(TOKENS)}
    assert len(gone) == len(TOKENS)
    tokenizer["model"]["vocab"] = {token: number for token, number in vocabulary.items() if token not in gone}
    tokenizer["model"]["merges"] = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) not in gone]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] = sorted(
        [*tokenizer["added_tokens"], *({"id": FIRST + n, "content": t, **plain} for n, t in enumerate(TOKENS))],
        key=lambda entry: entry["id"],
    )
    (out / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return out


def test_the_prompt(coder: Path):
    tokenizer = Tokenizer.load(coder)
    prompt = fill_prompt(tokenizer, "def f(x):\n    ", "\n    return y\n")
    text = "<|fim_prefix|>def f(x):\n    <|fim_suffix|>\n    return y\n<|fim_middle|>"
    assert list(prompt.token_ids) == tokenizer.encode(text, add_special_tokens=False)
    assert set(prompt.stop_token_ids) == {FIRST, FIRST + 1, FIRST + 3, FIRST + 4, FIRST + 5, 2045}
    assert list(fill_prompt(tokenizer, "", "").token_ids) == [FIRST, FIRST + 1, FIRST + 2]


def test_the_middle(coder: Path, tmp_path: Path):
    export(coder, tmp_path / "artifact", ExportOptions(precision="fp32"))
    params = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True)
    with Engine.open(tmp_path / "artifact") as engine:
        ids = list(fill_prompt(engine.tokenizer, "def f(x):\n", "return y\n").token_ids)
        plain = engine.generate(ids, params)
        assert fill_in_the_middle(engine, "def f(x):\n", "return y\n", params).token_ids == plain.token_ids
        stop = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True, stop_token_ids=[plain.token_ids[2]])
        stopped = fill_in_the_middle(engine, "def f(x):\n", "return y\n", stop)
        assert stopped.finish_reason is FinishReason.STOP and stopped.token_ids == plain.token_ids[:3]
        with pytest.raises(BadInputError, match="n is 1"):
            fill_in_the_middle(engine, "a", "b", SamplingParams(n=2))


def test_a_model_that_was_not_trained_on_it_is_refused(tiny: Path):
    with pytest.raises(BadInputError, match=r"has no <\|fim_prefix\|>, so the model cannot"):
        fill_prompt(Tokenizer.load(tiny), "a", "b")
