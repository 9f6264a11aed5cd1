"""The whole comparison: sound artifacts pass, and what cannot be compared is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.export.options import ExportOptions
from inference_pio.export.pipeline import export
from inference_pio.runtime import Engine
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.verify import Report, VerifyOptions, verify
from inference_pio.verify import scratch as scratch_module

sys.path.insert(0, str(Path(__file__).parents[1]))
from verify_cases import SMALL, Make, damage

STABLE_KEYS = {
    "kl_mean",
    "kl_p99",
    "kl_max",
    "top1_agreement",
    "top1_agreement_clear",
    "top5_agreement",
    "perplexity",
    "reference_perplexity",
    "perplexity_ratio",
    "max_logit_difference",
    "positions",
    "gate",
}


@pytest.fixture(scope="module")
def reports(tiny: Path, tiny_artifact: Make, loose: Path) -> Callable[[str], Report]:
    """`reports("int8")`: the report of a sound artifact, made once."""
    known: dict[str, Report] = {}

    def report(precision: str) -> Report:
        if precision not in known:
            gate = loose if precision == "int4" else None
            known[precision] = verify(tiny_artifact(precision), tiny, VerifyOptions(**SMALL, gate=gate))
        return known[precision]

    return report


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_a_sound_artifact_passes(precision: str, reports: Callable[[str], Report]) -> None:
    report = reports(precision)
    assert report.passed, report.gate.failures
    assert report.gate.name == ("loose" if precision == "int4" else precision)
    assert report.metrics.positions == 192
    assert report.source_matches
    assert report.tokenizer["matches"]
    assert (report.simulation is None) == (precision == "fp32")


def test_fp32_is_exact(reports: Callable[[str], Report]) -> None:
    report = reports("fp32")
    assert report.metrics.kl_mean < 1e-9
    assert report.metrics.top1_agreement == 1
    assert report.metrics.max_logit_difference is not None
    assert report.metrics.max_logit_difference < 1e-4


def test_rounding_costs_what_its_simulation_says(reports: Callable[[str], Report]) -> None:
    int8, int4 = reports("int8"), reports("int4")
    assert int8.excess is not None and int4.excess is not None and int8.simulation is not None
    assert 0 < int8.metrics.kl_mean < int4.metrics.kl_mean
    for report in (int8, int4):
        assert report.excess is not None
        assert report.excess.simulation_kl_mean == pytest.approx(report.metrics.kl_mean, rel=0.2)
        assert report.excess.twin_kl_mean is not None
        assert report.excess.agreement_kl_mean < 3 * report.excess.twin_kl_mean
    assert int4.excess.agreement_kl_mean < 0.1 * int4.metrics.kl_mean
    assert reports("fp16").excess is not None and reports("fp16").excess.twin_kl_mean is None


def test_the_report_has_the_stable_keys(reports: Callable[[str], Report]) -> None:
    report = reports("int8").to_dict()
    assert set(report) >= STABLE_KEYS
    assert set(report["gate"]) >= {"name", "passed", "failures"}
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_manifest_can_record_a_report(reports: Callable[[str], Report]) -> None:
    report = reports("int8")
    accuracy = report.to_accuracy()
    assert (accuracy.gate, accuracy.passed, accuracy.failures) == ("int8", True, [])
    assert accuracy.metrics["kl_mean"] == report.metrics.kl_mean
    assert accuracy.metrics["positions"] == 192


def test_a_saved_reference_gives_nearly_the_same_figures(
    tiny: Path, tiny_artifact: Make, tmp_path: Path, loose: Path, reports: Callable[[str], Report]
) -> None:
    saved = tmp_path / "reference.npz"
    verify(tiny_artifact("fp32"), tiny, VerifyOptions(**SMALL, save_reference=saved))
    report = verify(tiny_artifact("int4"), None, VerifyOptions(reference=saved, gate=loose))
    full = reports("int4").metrics
    assert report.passed, report.gate.failures
    assert report.kl_is_lower_bound
    assert 0.5 * full.kl_mean < report.metrics.kl_mean < full.kl_mean
    assert report.metrics.top1_agreement == full.top1_agreement
    assert report.metrics.perplexity_ratio == pytest.approx(full.perplexity_ratio, rel=1e-9)
    assert report.metrics.max_logit_difference is None
    assert report.tokenizer["matches"]
    assert report.source_matches
    assert any("lower bound" in note for note in report.notes)
    report.write_html(tmp_path / "report.html")


def test_a_saved_reference_needs_neither_torch_nor_onnx(tiny: Path, tiny_artifact: Make, tmp_path: Path) -> None:
    saved = tmp_path / "reference.npz"
    verify(tiny_artifact("fp32"), tiny, VerifyOptions(**SMALL, save_reference=saved))
    code = (
        "import sys; from pathlib import Path; from inference_pio.verify import verify, VerifyOptions\n"
        f"report = verify({str(tiny_artifact('int8'))!r}, None, VerifyOptions(reference=Path({str(saved)!r})))\n"
        f"report.write_html(Path({str(tmp_path / 'report.html')!r}))\n"
        "assert report.passed, report.gate.failures\n"
        "loaded = {'torch', 'transformers', 'onnx', 'onnx_ir', 'safetensors'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_saved_reference_of_something_else_is_refused(tiny: Path, tiny_artifact: Make, tmp_path: Path) -> None:
    saved, text = tmp_path / "reference.npz", tmp_path / "text.txt"
    text.write_text("def f(x):\n    return x + 1\n")
    verify(tiny_artifact("fp32"), tiny, VerifyOptions(text=text, save_reference=saved))
    other = tmp_path / "other.txt"
    other.write_text("something else")
    with pytest.raises(BadInputError, match="another text"):
        verify(tiny_artifact("fp32"), None, VerifyOptions(reference=saved, text=other))
    unknown = verify(tiny_artifact("fp32"), None, VerifyOptions(reference=saved))
    assert unknown.passed
    assert unknown.tokenizer["matches"] is None


def test_a_saved_reference_of_fewer_layers_is_refused(tiny: Path, tiny_artifact: Make, tmp_path: Path) -> None:
    export(tiny, tmp_path / "short", ExportOptions(precision="fp32", layers=2))
    saved = tmp_path / "reference.npz"
    verify(tmp_path / "short", tiny, VerifyOptions(window=8, positions=8, threads=1, save_reference=saved))
    with pytest.raises(BadInputError, match="number of layers"):
        verify(tiny_artifact("fp32"), None, VerifyOptions(reference=saved))


def test_a_baseline_must_not_be_undercut(
    tiny: Path, tiny_artifact: Make, tmp_path: Path, reports: Callable[[str], Report]
) -> None:
    path = tmp_path / "baseline.json"
    reports("int8").write_json(path)
    options = VerifyOptions(**SMALL, baseline=path, simulation=False)
    assert verify(tiny_artifact("int8"), tiny, options).passed
    before = json.loads(path.read_text())
    path.write_text(json.dumps({**before, "kl_mean": before["kl_mean"] / 1.2}))
    report = verify(tiny_artifact("int8"), tiny, options)
    assert not report.passed
    assert report.gate.failures[0].startswith("baseline: kl_mean grew")
    other = VerifyOptions(window=32, positions=192, baseline=path, simulation=False)
    with pytest.raises(BadInputError, match="another"):
        verify(tiny_artifact("int8"), tiny, other)


def test_two_runs_give_the_same_report(tiny: Path, tiny_artifact: Make) -> None:
    options = VerifyOptions(window=16, positions=32, threads=1)
    first, second = (verify(tiny_artifact("int8"), tiny, options).to_dict() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("text", "positions"), [("a b", 0), ("x = 1", 0), ("def f(x): return x", 0), ("ab" * 400, 0)])
def test_short_texts_are_used_as_far_as_they_go(
    text: str, positions: int, tiny: Path, tiny_artifact: Make, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text)
    report = verify(tiny_artifact("fp32"), tiny, VerifyOptions(text=path, threads=1))
    tokens = Tokenizer.load(tiny).encode(text)
    assert report.metrics.positions == len(tokens) - 1
    assert any("nothing was repeated" in note for note in report.notes)
    report.write_html(tmp_path / "report.html")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_texts_without_anything_to_predict_are_refused(
    content: bytes, tiny: Path, tiny_artifact: Make, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=r"text"):
        verify(tiny_artifact("fp32"), tiny, VerifyOptions(text=path, threads=1))


def test_windows_never_exceed_the_context(tiny: Path, tmp_path: Path) -> None:
    export(tiny, tmp_path / "short", ExportOptions(precision="fp32", context_length=24, layers=2))
    report = verify(tmp_path / "short", tiny, VerifyOptions(positions=60, threads=1))
    assert report.passed, report.gate.failures
    assert report.text["window"] == 24
    assert report.metrics.positions == 72
    assert any("first 2 layers" in note for note in report.notes)


def test_another_checkpoint_is_noted_and_fails(tiny: Path, tiny_artifact: Make, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"] *= -1
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    report = verify(tiny_artifact("int8"), other, VerifyOptions(**SMALL))
    assert not report.passed
    assert not report.source_matches
    assert any("hashes differ" in note for note in report.notes)


def test_nothing_is_left_behind(
    tiny: Path, tiny_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    options = VerifyOptions(window=8, positions=8, threads=1, scratch=folder)
    verify(tiny_artifact("int8"), tiny, options)
    assert list(folder.iterdir()) == []

    def fail(logits: np.ndarray) -> np.ndarray:
        raise KeyboardInterrupt

    damage(monkeypatch, fail)
    with pytest.raises(KeyboardInterrupt):
        verify(tiny_artifact("int8"), tiny, options)
    assert list(folder.iterdir()) == []


def test_too_little_disk_is_told_before_the_reference_runs(
    tiny: Path, tiny_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(Engine, "stream_logits", lambda self, ids: pytest.fail("started without the room"))
    with pytest.raises(ResourceLimitError, match="scratch space"):
        verify(tiny_artifact("int8"), tiny, VerifyOptions(**SMALL))


def test_progress_reaches_the_end_of_every_phase(tiny: Path, tiny_artifact: Make) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    options = VerifyOptions(
        window=8,
        positions=24,
        threads=1,
        progress=lambda phase, done, total: seen.setdefault(phase, []).append((done, total)),
    )
    verify(tiny_artifact("int8"), tiny, options)
    assert list(seen) == ["artifact", "reference", "comparison", "hashes", "simulation", "twin"]
    for steps in seen.values():
        assert all(0 < done <= total for done, total in steps)
        assert steps[-1][0] == steps[-1][1]


def test_nothing_to_compare_with(tiny_artifact: Make) -> None:
    with pytest.raises(BadInputError, match="nothing to compare"):
        verify(tiny_artifact("int8"), None)


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, inference_pio.verify as v; from inference_pio.verify import load_gate, VerifyOptions\n"
        "import inference_pio.verify.pytest_plugin\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'onnx_ir', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert callable(v.verify) and callable(v.estimate)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
