"""Checkpoints that are damaged, contradictory or made to harm, given to `inference-pio export`.

Each ends with exit code 2 and one line `error: ...` that names the culprit, without a traceback, and leaves nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from inference_pio.cli.main import run

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
from artifact_cases import snapshot
from random_checkpoint import published_config, write_random_checkpoint
from shapes import write_shape

SMALL = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
}
Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.layers.0.input_layernorm.weight"
TABLE = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "checkpoint"
    write_random_checkpoint(path, {**published_config("qwen3-0.6b"), **SMALL}, dtype="fp32")
    return path


@pytest.fixture
def checkpoint(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "checkpoint"))


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Export and expect a refusal; the words behind `error:`."""

    def check(checkpoint: Path | str, *options: str, code: int = 2) -> str:
        (tmp_path / "place").mkdir(exist_ok=True)
        capsys.readouterr()
        found = run(["export", str(checkpoint), "-o", str(tmp_path / "place" / "out"), *options])
        out, err = capsys.readouterr()
        assert found == code, err
        assert out == ""
        *before, last = err.splitlines()
        assert last.startswith("error: ")
        assert all(line.startswith("expected: ") for line in before), err
        assert last.isprintable() and len(last) < 1000
        assert list((tmp_path / "place").iterdir()) == []
        return last.removeprefix("error: ")

    return check


def change_config(checkpoint: Path, name: str = "config.json", **changes: object) -> None:
    values = {**json.loads((checkpoint / name).read_text()), **changes}
    (checkpoint / name).write_text(json.dumps(values))


def change_tensors(checkpoint: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    edit(tensors)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


def test_the_sound_one_exports(sound, tmp_path, capsys):
    assert run(["export", str(sound), "-o", str(tmp_path / "out")]) == 0
    assert "wrote" in capsys.readouterr().out


# --- tensors


def test_missing_tensors(checkpoint, refused):
    change_tensors(checkpoint, lambda tensors: [tensors.pop(name) for name in (Q, NORM)])
    message = refused(checkpoint)
    assert f"lacks '{NORM}', '{Q}'" in message


def test_tensors_too_many(checkpoint, refused):
    change_tensors(checkpoint, lambda t: t.update({"model.layers.2.mlp.up_proj.weight": t[Q], "\x1b[2J": t[NORM]}))
    message = refused(checkpoint)
    assert "does not use: '\\x1b[2J', 'model.layers.2.mlp.up_proj.weight'" in message


@pytest.mark.parametrize(
    ("name", "shape"), [(Q, (32, 33)), (Q, (32,)), (Q, (32, 32, 1)), (NORM, (31,)), (TABLE, (2047, 32)), (Q, (0, 32))]
)
def test_wrong_shapes(checkpoint, refused, name, shape):
    change_tensors(checkpoint, lambda tensors: tensors.update({name: np.ones(shape, np.float32)}))
    message = refused(checkpoint)
    assert f"'{name}'" in message
    assert f"has the shape {list(shape)}, but config.json implies" in message


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.float64, np.uint8, np.bool_])
@pytest.mark.parametrize("name", [Q, NORM, TABLE])
def test_wrong_dtypes(checkpoint, refused, name, dtype):
    change_tensors(checkpoint, lambda tensors: tensors.update({name: tensors[name].astype(dtype)}))
    message = refused(checkpoint)
    assert f"'{name}'" in message
    assert "only " in message and "are supported" in message


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(("name", "place"), [(Q, (31, 31)), (NORM, (5,)), (TABLE, (2047, 0))])
def test_numbers_that_are_none(checkpoint, refused, name, place, value, precision):
    def damage(tensors: dict[str, np.ndarray]) -> None:
        tensors[name][place] = value

    change_tensors(checkpoint, damage)
    message = refused(checkpoint, "--precision", precision)
    assert f"tensor '{name}' holds NaN or infinite values in rows" in message


def test_half_precision_that_is_too_small_for_them(checkpoint, refused):
    change_tensors(checkpoint, lambda tensors: tensors[Q].fill(7e4))
    assert Q in refused(checkpoint, "--precision", "fp16")


def test_a_head_that_contradicts_the_tied_table(checkpoint, refused):
    change_tensors(checkpoint, lambda tensors: tensors.update({"lm_head.weight": tensors[TABLE] + 1}))
    assert "set tie_word_embeddings to false" in refused(checkpoint)


# --- files


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1, -1000])
def test_truncated_weights(checkpoint, refused, kept):
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(data[:kept])
    assert "'model.safetensors'" in refused(checkpoint)


def test_a_header_that_lies_about_its_length(checkpoint, refused):
    data = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + data[8:])
    assert f"claims a header of {2**62} bytes" in refused(checkpoint)


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "model.safetensors/../x.safetensors"])
def test_an_index_that_points_outside(checkpoint, refused, shard):
    (checkpoint / "model.safetensors").rename(checkpoint.parent / "secret.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {Q: shard}}))
    assert "not the plain name" in refused(checkpoint)


def test_an_index_without_its_shard(checkpoint, refused):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    assert "shards that are missing: 'b.safetensors'" in refused(checkpoint)


def test_pickles_only(checkpoint, refused):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert "'pytorch_model.bin'" in refused(checkpoint)


def test_no_folder_no_hub_id_no_checkpoint(tmp_path, refused, tiny_artifact):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    assert "no config.json" in refused(tmp_path / "empty")
    assert "is a file" in refused(tmp_path / "file")
    assert "there is no folder" in refused(tmp_path / "absent" / "too")
    assert "hf download no/where" in refused("no/where")
    assert "exported artifact" in refused(tiny_artifact("int8"))


# --- config.json


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "model_type is missing"),
        ({"model_type": ["qwen3"]}, "model_type is ['qwen3'], not a string"),
        ({"hidden_size": -32}, "hidden_size is -32"),
        ({"hidden_size": 32.0}, "hidden_size is 32.0, not an integer"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 3}, "lacks 'model.layers.2"),
        ({"num_hidden_layers": 1}, "does not use: 'model.layers.1"),
        ({"num_attention_heads": 3}, "'model.layers.0.self_attn"),
        ({"num_key_value_heads": 3}, "cannot share"),
        ({"head_dim": 15}, "odd"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'"),
        ({"rope_theta": 0}, "rope_theta is 0"),
        ({"rope_scaling": {"type": "evil"}}, "rope type 'evil'"),
        ({"max_position_embeddings": 2**31}, "max_position_embeddings"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"attention_bias": True}, "lacks 'model.layers.0.self_attn"),
        ({"tie_word_embeddings": False}, "lacks 'lm_head.weight'"),
        ({"new_trick": 1}, "'new_trick'"),
        ({"new\x1b[2Jtrick": 1}, "'new\\x1b[2Jtrick'"),
        ({"x" * 5000: 1}, "'xxx"),
        ({"hidden_size": 10**40}, "hidden_size is"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_configs_that_cannot_be(checkpoint, refused, changes, words):
    change_config(checkpoint, **changes)
    assert words in refused(checkpoint)


@pytest.fixture(scope="module")
def sound_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_shape("moe", tmp_path_factory.mktemp("experts") / "checkpoint")
    values = json.loads((path / "config.json").read_text())
    values["num_experts"] = values.pop("num_local_experts")  # as published checkpoints call it
    (path / "config.json").write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"num_experts_per_tok": -1}, "num_experts_per_tok is -1"),
        ({"num_experts_per_tok": 2.0}, "num_experts_per_tok is 2.0"),
        ({"num_experts_per_tok": 10**40}, "num_experts_per_tok is 1000"),
        ({"num_experts": 0}, "num_experts is 0"),
        ({"num_experts": -6}, "num_experts is -6"),
        ({"num_experts": 10**9}, "num_experts is 1000000000"),
        ({"num_experts": "many"}, "num_experts is 'many'"),
        ({"num_experts": True}, "num_experts is True, not an integer"),
        ({"num_experts": 7, "num_local_experts": 6}, "num_experts is 7 but num_local_experts is 6"),
        ({"num_experts": 5}, "'model.layers.0.mlp.gate.weight'"),
        ({"num_experts": 4096}, "asks for 36864 tensors of experts, but the checkpoint has"),
        ({"num_experts": 4096, "num_hidden_layers": 1024}, "asks for 12582912 tensors of experts"),
        ({"moe_intermediate_size": 0}, "moe_intermediate_size is 0"),
        ({"moe_intermediate_size": 47}, "'model.layers.0.mlp.experts.0.gate_proj.weight'"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"decoder_sparse_step": 10**9}, "'model.layers.0.mlp.gate_proj.weight'"),
        ({"mlp_only_layers": [0]}, "'model.layers.0.mlp.gate_proj.weight'"),
        ({"mlp_only_layers": "all"}, "mlp_only_layers is 'all'"),
        ({"mlp_only_layers": [1.5]}, "mlp_only_layers"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_experts_that_cannot_be(sound_experts, tmp_path, refused, changes, words):
    checkpoint = Path(shutil.copytree(sound_experts, tmp_path / "checkpoint"))
    change_config(checkpoint, **changes)
    assert words in refused(checkpoint)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": "\\ud800"}'])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_configs_that_are_no_json(checkpoint, refused, name, content):
    (checkpoint / name).write_bytes(content)
    assert name in refused(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": "hot"},
        {"top_k": [1]},
        {"top_p": {"a": 1}},
        {"repetition_penalty": True},
        {"eos_token_id": "end"},
        {"eos_token_id": [1, "end"]},
        {"eos_token_id": {"a": 1}},
        {"eos_token_id": 1.5},
        {"pad_token_id": True},
    ],
    ids=str,
)
def test_generation_configs_of_wrong_types(checkpoint, refused, changes):
    change_config(checkpoint, "generation_config.json", **{"eos_token_id": 1, **changes})
    assert next(iter(changes)) in refused(checkpoint)


# --- tokenizer


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{", b'{"model": {"type": "BPE"}}', b"[" * 100_000),
        *(b'{"version": "1.0", "model": {"type": "Magic", "vocab": {}}}', b'{"model": null}', b"\x00" * 100),
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 1}}}',
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "Unigram", "vocab": [], "unk_id": 5}}',
    ],
    ids=lambda content: content[-40:].decode("ascii", "replace"),
)
def test_tokenizers_that_are_none(checkpoint, refused, content):
    (checkpoint / "tokenizer.json").write_bytes(content)
    assert "tokenizer.json" in refused(checkpoint)


@pytest.mark.parametrize("prefix", ["#", "(", "a b", "\u00e9", "x" * 100])
@pytest.mark.parametrize("merges", [None, [[]], [5], [None], ["\u0120 t", 1]], ids=str)
def test_merges_at_which_the_library_would_abort(checkpoint, refused, prefix, merges):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    values["model"]["continuing_subword_prefix"] = prefix
    if merges is not None:
        values["model"]["merges"] = merges
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    assert "tokenizer.json" in refused(checkpoint)


def test_no_tokenizer(checkpoint, refused):
    (checkpoint / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in refused(checkpoint)


def test_a_tokenizer_of_another_model(checkpoint, refused):
    values = json.loads((checkpoint / "tokenizer.json").read_text())
    values["added_tokens"].append({**values["added_tokens"][0], "id": 2048, "content": "<|one too many|>"})
    (checkpoint / "tokenizer.json").write_text(json.dumps(values))
    assert "token ids up to 2048" in refused(checkpoint)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_other_tokenizer_files(checkpoint, refused, name, content):
    (checkpoint / name).write_bytes(content)
    assert name in refused(checkpoint)


def test_a_chat_template_that_is_no_text(checkpoint, refused):
    (checkpoint / "chat_template.jinja").write_bytes(b"{{ messages }}\xff")
    assert "chat_template.jinja is not UTF-8" in refused(checkpoint)


# --- code, output, limits


def test_code_in_a_checkpoint_is_never_run(checkpoint, tmp_path):
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()"
    for name in ("modeling_qwen3.py", "configuration_qwen3.py", "__init__.py", "sitecustomize.py", "numpy.py"):
        (checkpoint / name).write_text(code)
    change_config(checkpoint, auto_map={"AutoModelForCausalLM": "modeling_qwen3.Model"})
    arguments = ["-m", "inference_pio.cli", "export", str(checkpoint), "-o", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
    assert not [name for name in snapshot(tmp_path / "out") if name.endswith(".py")]


def test_output_that_exists_is_refused_and_kept(sound, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["export", str(sound), "-o", str(out)]) == 0
    before = snapshot(out)
    assert run(["export", str(sound), "-o", str(out), "--precision", "int4"]) == 2
    assert "--force" in capsys.readouterr().err
    assert snapshot(out) == before


def test_the_old_artifact_survives_a_failure(sound, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["export", str(sound), "-o", str(out)]) == 0
    before = snapshot(out)
    change_tensors(checkpoint, lambda tensors: tensors[Q].fill(np.nan))
    assert run(["export", str(checkpoint), "-o", str(out), "--force"]) == 2
    assert snapshot(out) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_too_little_memory(sound, refused):
    assert "raise it to at least" in refused(sound, "--max-memory", "1MB", code=4)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from inference_pio.cli.main import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [10, 1000, 60_000])
def test_a_full_disk(sound, tmp_path, limit):
    """Files that may not grow beyond a limit stand for a disk that is full."""
    out = tmp_path / "place" / "out"
    out.parent.mkdir()
    command = [sys.executable, "-c", LIMITED, str(limit), "export", str(sound), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: writing the artifact failed: File too large")
    assert "Traceback" not in done.stderr
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "LICENSE"])
def test_files_that_may_not_be_read(checkpoint, refused, name, unprivileged):
    (checkpoint / name).touch()
    (checkpoint / name).chmod(0)
    unprivileged()
    assert "Permission denied" in refused(checkpoint)


@pytest.fixture
def unprivileged(tmp_path: Path):
    """Give up the rights of root, if we have them, until the end of the test."""
    folders = [tmp_path, *list(tmp_path.parents)[:3]]
    modes = [(folder, folder.stat().st_mode) for folder in folders if os.access(folder, os.W_OK)]

    def drop() -> None:
        if os.geteuid() == 0:
            for folder, mode in modes:
                folder.chmod(mode | 0o055)
            tmp_path.chmod(0o777)
            (tmp_path / "place").mkdir()
            (tmp_path / "place").chmod(0o777)
            os.seteuid(65534)

    yield drop
    if os.geteuid() == 65534:
        os.seteuid(0)
        for folder, mode in modes:
            folder.chmod(mode & 0o7777)
