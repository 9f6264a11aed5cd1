"""The command line: help, exit codes, JSON on standard output, one-sentence errors."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference_pio.cli import main
from inference_pio.cli.common import SIZE, size_text


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main.run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def assert_refused(result: tuple[int, str, str], word: str, code: int = 2) -> None:
    found, out, err = result
    assert found == code, err
    last = err.strip().splitlines()[-1]
    assert last.lower().startswith("error: ") and word in last
    assert "Traceback" not in err and out == ""


@pytest.mark.parametrize("verb", main.VERBS)
def test_every_verb_has_help(capsys, verb):
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0 and "Usage:" in out


def test_help_lists_the_verbs_and_imports_little():
    script = (
        "import sys\nfrom inference_pio.cli.main import run\nassert run(['--help']) == 0\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in main.VERBS)


@pytest.mark.parametrize(
    ("text", "size"), [("3GB", 3_000_000_000), ("512MiB", 512 << 20), ("1.5k", 1500), ("7", 7), ("0", 0)]
)
def test_sizes(text, size):
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "3 apples", "1e9", "nan"])
def test_bad_sizes(capsys, text, tmp_path):
    assert_refused(run(capsys, "export", tmp_path, "-o", tmp_path / "x", f"--max-memory={text}"), "size")


def test_size_text():
    assert [size_text(n) for n in (12, 1500, 2_500_000, 3e9)] == ["12 B", "1.5 kB", "2.5 MB", "3.00 GB"]


def test_unknown_verb_and_option(capsys):
    assert_refused(run(capsys, "exprot"), "exprot")
    assert_refused(run(capsys, "inspect", "--chekc", "x"), "chekc")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--samples 3", "--samples is for --calibration with a text"),
        ("--sample-length 64", "--sample-length is for --calibration with a text"),
        ("--without smoothing", "--without is for --calibration with a text"),
        ("--keep-failed", "--keep-failed is for --verify"),
        ("--backend cpu", "--backend is for --verify"),
        ("--data x.jsonl", "--data is for --verify"),
        ("--verify --data x.jsonl", "--data is for models that see images"),
        ("--verify --backend abacus", "backend 'abacus' is not known"),
        ("--verify --backend chain", "backend chain does not run target ort-cpu"),
        ("--verify --target tensorrt --hardware sm61 --precision fp32", "--verify needs --backend chain"),
        ("--verify --target ort-cuda --hardware sm61 --precision fp32", "no CUDA provider"),
        ("--verify --target ort-cuda --hardware sm61 --precision fp32 --backend chain", "chain does not run target"),
    ],
)
def test_an_option_that_would_be_ignored_or_fail_late_is_refused(capsys, tiny, tmp_path, arguments, words):
    code, out, err = run(capsys, "export", tiny, "-o", tmp_path / "out", *arguments.split())
    assert_refused((code, out, err), words)
    assert "peak memory" not in err and not (tmp_path / "out").exists()


def test_export_generate_inspect(capsys, tiny, tmp_path):
    out = tmp_path / "artifact"
    code, text, err = run(capsys, "export", tiny, "-o", out, "--precision", "int4")
    assert code == 0 and "fingerprint" in text and "peak memory" in err
    assert_refused(run(capsys, "export", tiny, "-o", out), "--force")
    assert run(capsys, "export", tiny, "-o", out, "--force", "--precision", "int8")[0] == 0

    code, text, _ = run(capsys, "generate", out, "-p", "import os", "--max-new-tokens", 5, "--json", "-")
    result = json.loads(text)
    assert code == 0 and len(result["token_ids"]) <= 5
    assert {"text", "token_ids", "finish_reason", "usage", "timings", "logprobs"} <= set(result)
    code, text, _ = run(capsys, "generate", out, "-p", "import os", "--max-new-tokens", 5)
    assert code == 0 and text == result["text"] + "\n"

    code, text, _ = run(capsys, "inspect", out, "--check", "--json", "-")
    facts = json.loads(text)
    assert code == 0 and {"manifest", "ops", "inputs", "outputs", "bytes"} <= set(facts)
    assert facts["ops"]["com.microsoft::MatMulNBits"] == 21
    code, text, _ = run(capsys, "inspect", out)
    assert code == 0 and "int8" in text and "all hashes" not in text and "ignored" not in text


def test_inspect_names_generation_fields_that_have_no_effect(capsys, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "checkpoint")
    place = tmp_path / "checkpoint" / "generation_config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "num_beams": 4}))
    assert run(capsys, "export", tmp_path / "checkpoint", "-o", tmp_path / "out")[0] == 0
    assert "num_beams of generation_config.json" in run(capsys, "inspect", tmp_path / "out")[1]


def test_generate_several_with_logprobs(capsys, tiny_artifact, tmp_path):
    prompt, destination = tmp_path / "prompt.txt", tmp_path / "deep" / "out.json"
    prompt.write_text("class A:\n")
    arguments = ("--temperature", 1, "--seed", 3, "-n", 2, "--logprobs", 2, "--max-new-tokens", 4)
    code, out, _ = run(
        capsys, "generate", tiny_artifact("int8"), "--prompt-file", prompt, *arguments, "--json", destination
    )
    assert code == 0 and out == ""
    answers = json.loads(destination.read_text())["results"]
    assert len(answers) == 2 and len(answers[0]["logprobs"][0]["top"]) == 2


def test_generate_refusals(capsys, tiny_artifact, tmp_path):
    artifact, binary = tiny_artifact("int8"), tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert_refused(run(capsys, "generate", artifact), "--prompt-file")
    assert_refused(run(capsys, "generate", artifact, "-p", ""), "empty")
    assert_refused(run(capsys, "generate", artifact, "-p", "x", "--temperature", -1), "temperature")
    assert_refused(run(capsys, "generate", artifact, "-p", "x", "--top-p", "nan"), "top_p")
    assert_refused(run(capsys, "generate", artifact, "--prompt-file", binary), "UTF-8")
    assert_refused(run(capsys, "generate", artifact, "--prompt-file", tmp_path / "none"), "none")
    assert_refused(run(capsys, "generate", artifact, "-p", "x", "-n", 2), "--json")
    assert_refused(run(capsys, "generate", artifact, "-p", "word " * 5000), "context")
    assert_refused(run(capsys, "generate", artifact, "-p", "x", "--max-memory", "1MB"), "max_memory", code=4)
    assert_refused(run(capsys, "generate", tmp_path, "-p", "x"), "manifest.json")


def test_a_prompt_that_is_not_utf8_on_the_command_line(tiny_artifact):
    arguments = [sys.executable, "-m", "inference_pio.cli", "generate", str(tiny_artifact("int8")), "-p", b"\xff\xfe"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_chat(capsys, tiny_artifact):
    arguments = ("chat", tiny_artifact("int8"), "-m", "Hello", "--max-new-tokens", 8)
    code, text, _ = run(capsys, *arguments, "--json", "-")
    assert code == 0
    assert run(capsys, *arguments)[1].rstrip("\n") == json.loads(text)["text"].rstrip("\n")


def test_chat_in_turns(capsys, tiny_artifact, monkeypatch):
    lines = iter(["Hello", "And you?", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    assert run(capsys, "chat", tiny_artifact("int8"), "--max-new-tokens", 4)[0] == 0
    with pytest.raises(StopIteration):
        next(lines)


def test_bench_and_doctor_give_stable_keys(capsys, tiny_artifact):
    arguments = ("--prompt-tokens", 16, "--new-tokens", 4, "--repeat", 1)
    code, text, _ = run(capsys, "bench", tiny_artifact("int8"), *arguments, "--json", "-")
    keys = {"prefill_tokens_per_s", "decode_tokens_per_s", "time_to_first_token_s", "load_s"}
    assert code == 0 and keys | {"peak_rss_bytes", "steady_rss_bytes"} <= set(json.loads(text))
    code, text, _ = run(capsys, "doctor", "--json", "-")
    assert code == 0 and {"cpu", "memory", "disk", "onnxruntime", "gpus", "problems"} <= set(json.loads(text))


def test_bench_runs_as_many_tokens_as_it_says(capsys, tiny_artifact):
    arguments = ("--prompt-tokens", 4090, "--new-tokens", 8, "--repeat", 1)
    message = "4090 and 8 new tokens do not fit the context of 4096"
    assert_refused(run(capsys, "bench", tiny_artifact("int8"), *arguments), message)


def test_unexpected_errors_are_one_line(capsys, monkeypatch, tiny_artifact):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("inference_pio.cli.inspect._facts", broken)
    assert_refused(run(capsys, "inspect", tiny_artifact("int8")), "--debug", code=1)
    code, _, err = run(capsys, "--debug", "inspect", tiny_artifact("int8"))
    assert code == 1 and "Traceback" in err


def test_interrupt(tiny_artifact):
    arguments = [sys.executable, "-m", "inference_pio.cli", "generate", str(tiny_artifact("int8"))]
    process = subprocess.Popen(
        [*arguments, "-p", "import", "--max-new-tokens", "4000", "--ignore-eos"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a shell's background jobs
    )
    assert process.stdout is not None and process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "interrupted" in err


def test_closed_pipe_is_no_error(tiny_artifact):
    command = f"{sys.executable} -m inference_pio.cli inspect {tiny_artifact('int8')} --json - | head -c 10"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_the_demo(capsys, tmp_path):
    code, text, err = run(capsys, "demo", "-o", Path(tmp_path / "demo"))
    assert code == 0, err
    assert "passed" in text and (tmp_path / "demo" / "manifest.json").is_file()
