"""`inference-pio chat`: reasoning beside the answer, and a history that stays within its budget."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from inference_pio.cli import main
from inference_pio.runtime import Engine, SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1]))
from chat_cases import TEMPLATE, artifact_with_template, scripted

USER = [{"role": "user", "content": "Hello"}]
FEW = ("--max-new-tokens", "8", "--temperature", "0", "--ignore-eos")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact_with_template(TEMPLATE, tmp_path_factory.mktemp("thinking"))


def test_reasoning_can_be_turned_off(artifact: Path, capsys: pytest.CaptureFixture[str]):
    with Engine.open(artifact) as engine:
        expected = engine.chat(USER, SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True), thinking=False)
    assert main.run(["chat", str(artifact), "-m", "Hello", "--no-thinking", *FEW]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{expected.text}\n", "")
    assert main.run(["chat", str(artifact), "-m", "Hello", "--thinking", *FEW, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["text"] == "" and found["reasoning"]


def test_reasoning_goes_to_standard_error(
    artifact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Engine, "_run", lambda *_: scripted("I think.\n</think>\n\nHello!"))
    assert main.run(["chat", str(artifact), "-m", "Hello"]) == 0
    assert capsys.readouterr() == ("Hello!\n", "I think.\n\n")


def test_a_budget_ends_the_reasoning(artifact: Path, capsys: pytest.CaptureFixture[str]):
    assert main.run(["chat", str(artifact), "-m", "Hello", "--thinking-budget", "0", *FEW, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["reasoning"] == ""
    assert main.run(["chat", str(artifact), "-m", "Hello", "--thinking-budget", "-1", *FEW]) == 2
    assert "thinking_budget" in capsys.readouterr().err


def test_no_switch_and_no_room_are_refused(artifact: Path, tiny_artifact, capsys: pytest.CaptureFixture[str]):
    assert main.run(["chat", str(tiny_artifact("int8")), "-m", "Hello", "--thinking"]) == 2
    assert "no switch for thinking" in capsys.readouterr().err
    assert main.run(["chat", str(artifact), "-m", "Hello " * 50, "--history-tokens", "20"]) == 2
    assert "of a budget of 20" in capsys.readouterr().err
