"""`plan` from the outside: exit codes, JSON, tables and refusals, with a config.json and nothing else."""

import json
import os
import shlex
import shutil
import sys

import pytest
from random_shapes import SHAPES

from inference_pio.artifact.bundle import Artifact
from inference_pio.cli import main


@pytest.fixture
def checkpoint(tmp_path):
    """A folder that holds the config.json of Qwen3-4B alone."""
    folder = tmp_path / "qwen3-4b"
    folder.mkdir()
    shutil.copy(SHAPES / "qwen3-4b.json", folder / "config.json")
    return folder


@pytest.fixture
def plan(capsys, checkpoint):
    """Runs `plan` on it: exit code, standard output, standard error."""

    def run(*arguments, folder=checkpoint):
        code = main.run(["plan", str(folder), *map(str, arguments)])
        return (code, *capsys.readouterr())

    return run


def test_a_card(plan, checkpoint):
    code, out, err = plan("--hardware", "gtx-1060-6gb", "--vram", "6GB", "--ram", "8GB")
    assert code == 0 and err == ""
    lines = out.splitlines()
    assert "machine       gtx-1060-6gb (sm61) with 6.00 GB, i5-10210u with 8.00 GB" in lines
    assert "fits          yes" in lines
    assert "artifact      tensorrt/trt85, w8a8-static, fp32 cache, 4.03 GB" in lines
    assert any(line.startswith("decode        at most 41.") and line.endswith("2,048 tokens") for line in lines)
    assert any(line.startswith(f"export        inference-pio export {checkpoint}") for line in lines)
    assert "build         inference-pio build artifacts/qwen3-4b-sm61-w8a8-static --max-context 3840" in lines
    assert "room for 4,019 fp32 tokens (not exported yet: 8,039 fp16, 16,079 int8)\n" in out


def test_a_folder_without_a_name_of_its_own(plan, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint)
    _, out, _ = plan("--hardware", "gtx-1080", "--json", "-", folder=".")
    assert " export . -o artifacts/qwen3-4b-sm61-w8a8-static " in json.loads(out)["command"]


def test_json_is_a_plan(plan):
    code, out, _ = plan("--hardware", "gtx-1080", "--json", "-")
    found = json.loads(out)
    assert code == 0 and found["fits"] and found["card"] == "gtx-1080"
    assert found["speeds"]["decode"][0] == {"context": 0, "tokens_per_s": pytest.approx(79.6, rel=0.02)}
    assert {"places", "reserved", "kv_tokens", "command", "context_length", "memory", "notes"} <= set(found)


def test_a_class_is_a_table(plan, tmp_path):
    code, out, _ = plan("--hardware", "sm61")
    assert code == 0 and "mx250" in out and "does not fit: 2" in out and "gtx-1080-ti" in out
    assert "first token of cache; with --target ort-cuda --precision int4 48." in out
    code, _, _ = plan("--hardware", "sm61", "--json", tmp_path / "out.json")
    cards = json.loads((tmp_path / "out.json").read_text())["cards"]
    assert code == 0 and next(entry["card"] for entry in cards if not entry["fits"]) == "mx150"


def test_what_does_not_fit_is_said_and_exits_with_4(plan):
    code, out, err = plan("--hardware", "mx250", "--target", "tensorrt")
    assert code == 4 and err == "" and "fits          no: 2" in out and "\nexport  " not in out
    code, out, _ = plan("--hardware", "gtx-1050-ti")
    assert code == 4 and "smaller       --target ort-cuda --precision int4: at most 48." in out
    code, out, _ = plan("--hardware", "mx250", "--target", "tensorrt", "--json", "-")
    assert code == 4 and json.loads(out)["fits"] is False


def test_the_command_is_one_that_runs(plan, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, _ = plan("--hardware", "i5-10210u", "--precision", "int4", "--json", "-", folder=tiny)
    found = json.loads(out)
    program, *arguments = shlex.split(found["command"])
    assert code == 0 and program == "inference-pio" and main.run(arguments) == 0
    artifact = Artifact.open(tmp_path / "artifacts" / "qwen3-cpu-avx2-int4")
    assert artifact.manifest.model.context_length == found["context_length"]
    assert artifact.manifest.memory.cache_bytes_per_token == found["kv_bytes_per_token"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hardware", "gtx-9999"], "hardware 'gtx-9999' is not known"),
        (["--hardware", "gtx-1060-6gb", "--vram", "-6GB"], "is not a size"),
        (["--hardware", "gtx-1060-6gb", "--vram", "0"], "--vram must be more than 0"),
        (["--hardware", "gtx-1060-6gb", "--ram", "0GB"], "--ram must be more than 0"),
        (["--hardware", "gtx-1060-6gb", "--vram", "8GB"], "more than the 6442450944 bytes of gtx-1060-6gb"),
        (["--hardware", "i5-10210u", "--vram", "6GB"], "--vram has no meaning for i5-10210u, which is a CPU"),
        (["--hardware", "gtx-1060-6gb", "--host", "gtx-1070"], "--host gtx-1070 is not one CPU"),
        (["--hardware", "gtx-1060-6gb", "--target", "ort-cpu"], "target ort-cpu does not run on sm61"),
        (["--hardware", "gtx-1060-6gb", "--target", "onnx"], "target onnx does not run on sm61"),
        (["--hardware", "gtx-1060-6gb", "--precision", "int2"], "precision 'int2' is not known"),
        (["--hardware", "i5-10210u", "--kv-cache", "fp16"], "--kv-cache fp16 is not available on ort-cpu"),
        (["--hardware", "i5-10210u", "--kv-cache", "int2"], "--kv-cache int2 is not known"),
        (["--hardware", "i5-10210u", "--context-length", "0"], "--context-length 0 is outside 1 to 262144"),
        (["--hardware", "absent.json"], "absent.json does not exist"),
        (["--hardware", "pipe.json"], "pipe.json is no regular file"),
    ],
    ids=" ".join,
)
def test_refusals(plan, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.json")
    code, out, err = plan(*arguments)
    assert code == 2 and out == "" and words in err and "Traceback" not in err


def test_experts_of_four_bits_beside_layers_of_eight(plan, tmp_path):
    """A recipe file mixes them: the drive gives twice as many tokens."""
    shutil.copy(SHAPES / "qwen3-coder-30b.json", tmp_path / "config.json")
    (tmp_path / "mixed.json").write_text('{"base": "w8a8-static", "overrides": {"*.experts.*": "int4"}}')
    found = {}
    for precision in ("w8a8-static", tmp_path / "mixed.json"):
        _, out, _ = plan("--hardware", "gtx-1060-6gb", "--precision", precision, "--json", "-", folder=tmp_path)
        values = json.loads(out)
        experts = sum(entry["bytes"] for entry in values["places"] if entry["part"] == "experts")
        found[values["precision"]] = (experts, values["speeds"]["decode"][0]["tokens_per_s"])
    assert found["mixed"][0] == pytest.approx(found["w8a8-static"][0] * 4.25 / 8.25, rel=0.001)
    assert found["mixed"][1] > 2 * found["w8a8-static"][1]


def test_entries_of_a_configuration_that_the_caller_vouches_for(plan, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"novelty": 3}))
    code, _, err = plan("--hardware", "gtx-1070")
    assert code == 2 and "novelty" in err
    code, out, _ = plan("--hardware", "gtx-1070", "--ignore-config-key", "novelty")
    assert code == 0 and "--ignore-config-key novelty" in out


def test_without_the_exporter(plan, monkeypatch):
    monkeypatch.setitem(sys.modules, "inference_pio.planning.planner", None)
    code, out, err = plan("--hardware", "gtx-1070")
    assert code == 2 and out == "" and "pip install 'inference-pio[export]'" in err


def test_what_is_no_checkpoint(plan, tmp_path):
    for name, config in (("empty", None), ("other", '{"model_type": "bert"}'), ("broken", "{")):
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
    for name, words in (
        ("empty", "has no config.json"),
        ("other", "model_type 'bert' is not supported"),
        ("broken", "JSON"),
        ("absent", "there is no folder"),
        ("other/config.json", "is a file"),
    ):
        code, out, err = plan("--hardware", "gtx-1070", folder=tmp_path / name)
        assert code == 2 and out == "" and words in err and "Traceback" not in err
