"""The whole export, top to bottom: checkpoint, canonical graph, lowering, streamed weights, artifact."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import Accuracy, Manifest
from inference_pio.artifact.writer import ArtifactWriter, refuse_existing
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import GateFailedError
from inference_pio.export.calibrating import open_calibration
from inference_pio.export.checkpoint_files import copy_checkpoint_files
from inference_pio.export.contents import build_report, make_manifest
from inference_pio.export.graphs import lowered_graphs
from inference_pio.export.options import ExportOptions
from inference_pio.export.plan import fit_resources, plan_export
from inference_pio.export.progress import ExportProgress, SilentProgress
from inference_pio.export.source_hashes import SourceHashes
from inference_pio.export.weight_writer import write_weights

Verifier = Callable[[Path], Accuracy]
"""Measures the artifact in the folder it is given, before it is put in place."""


def export(
    checkpoint: str | Path,
    out: str | Path,
    options: ExportOptions | None = None,
    *,
    progress: ExportProgress | None = None,
    verifier: Verifier | None = None,
) -> Artifact:
    """Export a checkpoint to an artifact at `out` and open it.

    Memory stays at a few row chunks whatever the size of the model. Raises BadInputError for anything wrong with the
    checkpoint or the options, ResourceLimitError when memory or disk do not suffice, and GateFailedError when
    `verifier` finds the artifact too far from the original; then nothing stands at `out`.
    """
    options, progress, out = options or ExportOptions(), progress or SilentProgress(), Path(out)
    started = time.monotonic()
    refuse_existing(out, options.force)
    with (
        Checkpoint.open(checkpoint) as source,
        open_calibration(source, out, options, progress.calibration) as calibration,
    ):
        plan = plan_export(source, options, calibration)
        graphs, rewrites = lowered_graphs(source, plan)
        needed, threads = fit_resources(graphs.all, plan, out, options.max_memory)
        progress.start(needed)
        with SourceHashes(source) as hashes, ArtifactWriter(out, options.force) as writer:
            copy_checkpoint_files(source, plan, graphs, writer)
            for name, graph in graphs.weights.items():
                weights = writer.create(name)
                write_weights(graph, weights, name, threads, progress.advance)
                writer.finish(name, weights)
            for part in graphs.parts:
                writer.add(part.file, ir.to_proto(part.model).SerializeToString(deterministic=True))
            manifest = make_manifest(plan, source, hashes.result(), graphs, writer.files)
            progress.finish()
            if verifier is not None:
                manifest = _verified(manifest, writer, verifier, options.keep_failed)
            seconds = time.monotonic() - started
            writer.add("build-report.json", build_report(needed, threads, rewrites, graphs, seconds), record=False)
            writer.commit(manifest.to_bytes())
    return Artifact.open(out)


def _verified(manifest: Manifest, writer: ArtifactWriter, verifier: Verifier, keep_failed: bool) -> Manifest:
    """The manifest with the verifier's result; raises GateFailedError when it failed and is not to be kept."""
    with writer.provisional(manifest.to_bytes()):
        accuracy = verifier(writer.folder)
    if not accuracy.passed and not keep_failed:
        raise GateFailedError(
            f"the artifact failed gate {accuracy.gate} and was not kept: {'; '.join(accuracy.failures)}"
        )
    return manifest.with_accuracy(accuracy)
