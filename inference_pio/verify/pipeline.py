"""Is the artifact still the original model? The whole comparison, top to bottom.

Three passes over one text, each free of the memory of the one before: the artifact through the engine, the original
through transformers, and the simulation (the original's layers with the artifact's rounded weights). Their logits wait
on disk, so the peak of memory is that of the largest pass.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inference_pio.artifact.bundle import Artifact
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.verify.answers import compare_answers
from inference_pio.verify.baseline import compare_with_baseline, read_report
from inference_pio.verify.candidate import run_artifact
from inference_pio.verify.conclusion import Comparison, conclude
from inference_pio.verify.gates import Gate, gate_for_recipe, load_gate
from inference_pio.verify.metrics import against_logits, must_be_finite
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.original import (
    Original,
    check_simulation,
    check_tokens,
    passes_for,
    rounded_weights,
    source_matches,
)
from inference_pio.verify.passes import ARTIFACT_ALONE
from inference_pio.verify.report import Report
from inference_pio.verify.saved import SavedReference, collect, load_reference
from inference_pio.verify.scratch import Scratch
from inference_pio.verify.simulated import compare_windows, simulate
from inference_pio.verify.windows import Text, read_text


def verify(artifact: str | Path, checkpoint: str | Path | None, options: VerifyOptions | None = None) -> Report:
    """Compare an artifact with the checkpoint that it was exported from.

    `checkpoint` is a folder or a hub id in the local cache; None only with a saved reference in `options`. A gate that
    is not met is a result (`Report.passed` is False), not an error. Raises BadInputError for inputs that cannot be
    compared and ResourceLimitError when the scratch folder is too small.
    """
    options = options or VerifyOptions()
    opened = Artifact.open(artifact)
    gate = _choose_gate(opened, options)
    baseline = None if options.baseline is None else read_report(options.baseline)
    if opened.manifest.vision is not None or options.data is not None:
        comparison = _on_answers(opened, checkpoint, gate, options)
    elif options.reference is not None:
        comparison = _against_saved(opened, load_reference(options.reference), options)
    elif checkpoint is not None:
        with Checkpoint.open(checkpoint) as source:
            comparison = _against_checkpoint(opened, source, gate, options)
    else:
        raise BadInputError("there is nothing to compare with: give a checkpoint or a saved reference")
    report = conclude(opened, gate, comparison, options)
    if baseline is None:
        return report
    worse = compare_with_baseline(report.to_dict(), baseline)
    outcome = {"file": str(options.baseline), "passed": not worse, "failures": worse}
    return replace(report, baseline=outcome, gate=report.gate.with_failures([f"baseline: {w}" for w in worse]))


def _on_answers(artifact: Artifact, checkpoint: str | Path | None, gate: Gate, options: VerifyOptions) -> Comparison:
    """Answers about images; refuses by name what is for texts alone."""
    if artifact.manifest.vision is None:
        raise BadInputError("--data is for models that see images, and this one does not: leave it out")
    taken = [name for name in ("text", "reference", "save_reference") if getattr(options, name) is not None]
    if taken:
        raise BadInputError(
            f"--{taken[0].replace('_', '-')} is for models of text: one that sees images takes --data FILE.jsonl alone"
        )
    if checkpoint is None:
        raise BadInputError("there is nothing to compare with: give a checkpoint")
    with Checkpoint.open(checkpoint) as source:
        return compare_answers(artifact, source, gate, options)


def _against_checkpoint(artifact: Artifact, checkpoint: Checkpoint, gate: Gate, options: VerifyOptions) -> Comparison:
    """Three passes (artifact, original, simulation) and their comparison."""
    original = Original(checkpoint, artifact.manifest, options)
    passes = passes_for(artifact.manifest, options)
    if passes.simulation:
        check_simulation(artifact)
    vocabulary = artifact.manifest.model.vocab_size
    with Scratch(options.scratch, vocabulary, passes) as scratch:
        text = read_text(options.text)
        candidate = run_artifact(artifact, text, None, options, scratch)
        tokenizer = check_tokens(candidate.tokens, original.tokenize(text.content), "the checkpoint's tokenizer")

        reference = scratch.open(candidate.windows.positions)
        original.write_logits(original.weights, candidate.windows, reference, "reference")
        read_reference = must_be_finite(reference.read)
        table = compare_windows(against_logits(read_reference), candidate.logits, candidate.windows, options)

        facts = original.facts()
        if options.save_reference is not None:
            collect(read_reference, candidate.windows, vocabulary, facts).save(options.save_reference)
        simulated = None
        if passes.simulation:
            rounded = rounded_weights(artifact)
            simulated = simulate(
                original.write_logits,
                rounded,
                read_reference,
                candidate.logits,
                candidate.windows,
                gate,
                scratch,
                options,
            )
    return Comparison(
        windows=candidate.windows,
        decode=candidate.decode,
        table=table,
        lower_bound=False,
        tokenizer=tokenizer,
        source_matches=source_matches(artifact.manifest, facts["source"]),
        versions=facts["versions"],
        simulated=simulated,
    )


def _against_saved(artifact: Artifact, saved: SavedReference, options: VerifyOptions) -> Comparison:
    """One pass, the artifact's; the original's part was saved earlier."""
    if saved.vocabulary != artifact.manifest.model.vocab_size:
        raise BadInputError(
            f"the artifact has a vocabulary of {artifact.manifest.model.vocab_size}, the saved reference of "
            f"{saved.vocabulary}: it belongs to another model"
        )
    if saved.facts["layers_kept"] != artifact.manifest.source.layers_kept:
        raise BadInputError("the saved reference has another number of layers than the artifact: save another")
    text = _text_of(saved, options)
    with Scratch(options.scratch, saved.vocabulary, ARTIFACT_ALONE) as scratch:
        candidate = run_artifact(artifact, text, saved.windows, options, scratch)
        table = compare_windows(saved.compare_rows, candidate.logits, saved.windows, options)
    tokenizer = None
    if text is not None:
        stream = saved.windows.stream.tolist()
        tokenizer = check_tokens(candidate.tokens[: len(stream)], stream, "the saved reference's tokens")
    return Comparison(
        windows=saved.windows,
        decode=candidate.decode,
        table=table,
        lower_bound=True,
        tokenizer=tokenizer,
        source_matches=source_matches(artifact.manifest, saved.facts["source"]),
        versions=saved.facts["versions"],
        simulated=None,
    )


def _text_of(saved: SavedReference, options: VerifyOptions) -> Text | None:
    """The text that a reference was saved for, or None when only its tokens are at hand."""
    text = read_text(options.text)
    if text.sha256 == saved.windows.text_sha256:
        return text
    if options.text is not None:
        raise BadInputError(f"the reference was saved for another text than {options.text}: leave the text out")
    return None


def _choose_gate(artifact: Artifact, options: VerifyOptions) -> Gate:
    manifest = artifact.manifest
    if options.gate is None:
        gate = gate_for_recipe(manifest.recipe.name, manifest.recipe.weights.values())
        if manifest.cache.dtype == "int8":
            gate = gate.with_int8_cache()
    else:
        gate = load_gate(options.gate)
    return gate.with_compute(manifest.cache.dtype, manifest.recipe.weights.values()).for_model(manifest.parameters)
