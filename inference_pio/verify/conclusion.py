"""From the comparison of all positions to the verdict and the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from inference_pio.artifact.bundle import Artifact
from inference_pio.verify.calibration_facts import calibration_facts
from inference_pio.verify.findings import (
    Decode,
    by_offset,
    by_window,
    first_divergence,
    histogram,
    worst_positions,
)
from inference_pio.verify.gates import Excess, Gate
from inference_pio.verify.metrics import Metrics, PositionTable, summarise
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.report import Report
from inference_pio.verify.windows import Windows
from inference_pio.version import __version__


@dataclass(frozen=True)
class Simulated:
    """The simulation's own distance from the original, and the artifact's from the simulation."""

    metrics: Metrics
    excess: Excess

    @staticmethod
    def judge(
        noise: PositionTable, agreement: PositionTable, twin: PositionTable | None, clear_gap: float
    ) -> Simulated:
        """From the pairs (original, simulation), (simulation, artifact) and (simulation, twin)."""
        metrics, agreed = summarise(noise, clear_gap), summarise(agreement, clear_gap)
        twin_kl_mean = None if twin is None else float(twin.kl.mean())
        return Simulated(metrics, Excess(metrics.kl_mean, agreed.kl_mean, agreed.max_logit_difference, twin_kl_mean))


@dataclass(frozen=True)
class Comparison:
    """What the passes found; `tokenizer` and `simulated` are None where they could not be had."""

    windows: Windows
    decode: Decode
    table: PositionTable
    lower_bound: bool
    tokenizer: dict[str, Any] | None
    source_matches: bool
    versions: dict[str, str]
    simulated: Simulated | None


def conclude(artifact: Artifact, gate: Gate, comparison: Comparison, options: VerifyOptions) -> Report:
    """Judge a comparison and gather what a reader wants to know about it."""
    manifest, windows, table = artifact.manifest, comparison.windows, comparison.table
    metrics = summarise(table, gate.clear_gap)
    excess = None if comparison.simulated is None else comparison.simulated.excess
    verdict = gate.check(metrics, excess)
    if comparison.tokenizer is not None and not comparison.tokenizer["matches"]:
        verdict = verdict.with_failures([_tokenizer_failure(comparison.tokenizer)])
    return Report(
        gate=verdict,
        metrics=metrics,
        clear_gap=gate.clear_gap,
        kl_is_lower_bound=comparison.lower_bound,
        simulation=None if comparison.simulated is None else comparison.simulated.metrics,
        excess=excess,
        artifact={
            "name": artifact.path.resolve().name,
            "fingerprint": manifest.fingerprint,
            "model_type": manifest.model.model_type,
            "parameters": manifest.parameters,
            "target": manifest.target,
            "recipe": manifest.recipe.name,
            "weights": manifest.recipe.weights,
            "source": manifest.source.name,
            "rounds_activations": manifest.contract.rounds_activations,
        },
        text=windows.describe(),
        tokenizer=comparison.tokenizer or {"matches": None, "checked_against": None},
        source_matches=comparison.source_matches,
        versions=_versions(comparison.versions),
        findings={
            "first_divergence": first_divergence(table, windows, comparison.decode),
            "worst_positions": worst_positions(table, windows, comparison.decode),
            "windows": by_window(table, windows, gate.clear_gap),
            "kl_by_offset": by_offset(table, windows),
            "kl_histogram": histogram(table.kl),
        },
        notes=tuple(_notes(artifact, gate, comparison, options)),
        calibration=calibration_facts(artifact),
    )


def _notes(artifact: Artifact, gate: Gate, comparison: Comparison, options: VerifyOptions) -> Iterable[str]:
    manifest, positions = artifact.manifest, comparison.windows.positions
    wanted = options.positions_for(manifest.recipe.name)
    if positions < wanted and not comparison.lower_bound:
        yield f"The text has only {positions} positions of the {wanted} wanted; nothing was repeated."
    if comparison.lower_bound:
        yield (
            "The original is a saved reference (its 256 most likely tokens per position): KL is a lower bound, the "
            "largest logit difference is unknown, and there is no simulation to hold the artifact against."
        )
    elif not options.simulation:
        yield "The simulation was skipped, so the excess gate was not judged."
    if comparison.tokenizer is None:
        yield "The text of the saved reference was not at hand, so the tokenizer was not checked."
    if manifest.parameters < gate.small_model_parameters:
        yield (
            f"A model of {manifest.parameters:,} parameters has a flat output, where rounding flips near ties: its "
            "top-1 agreement is judged away from them (top1_agreement_clear) and reported raw as well."
        )
    operators = manifest.requires.operators
    blocks = [name for name in manifest.recipe.weights.values() if name.startswith("int") and "exact" not in name]
    if manifest.cache.dtype in ("float16", "bfloat16"):
        yield f"This artifact computes in {manifest.cache.dtype}; the simulation does so in float32, with its weights."
    if blocks and "com.microsoft::MatMulNBits" in operators:
        yield (
            "This artifact's weight-only kernels also round activations to int8, per token and block (accuracy level "
            "4); the simulation does the same."
        )
    if blocks and "com.microsoft::QMoE" in operators:
        yield (
            "The experts' kernel rounds activations to int8 as well, per token and block, unless no block size divides "
            "its rows; the simulation does the same."
        )
    rounded = {"com.microsoft::MatMulIntegerToFloat", "ai.onnx::MatMulInteger", "ai.onnx::DequantizeLinear"}
    if rounded & operators.keys():
        yield "Inputs of the integer products are rounded to int8 as the graph says; the simulation does the same."
    if manifest.cache.dtype == "int8":
        yield "Keys and values are rounded to int8 before anything attends to them; the simulation does the same."
    if not comparison.source_matches:
        yield "The original's files are not the ones that the artifact was exported from (hashes differ)."
    if manifest.source.layers_kept is not None:
        yield f"The artifact has only the first {manifest.source.layers_kept} layers, and so has the original here."


def _tokenizer_failure(tokenizer: dict[str, Any]) -> str:
    place = tokenizer["first_difference"]
    return (
        f"tokenizer: token {place['index']} differs from {tokenizer['checked_against']} "
        f"({place['artifact']} instead of {place['original']})"
    )


def _versions(reference: dict[str, str]) -> dict[str, str]:
    """Versions of everything that took part."""
    found = {"inference-pio": __version__}
    for name in ("onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, **reference}
