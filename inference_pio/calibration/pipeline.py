"""The whole calibration, top to bottom: text and images, hidden states, one layer after the other, a folder of results.

Hidden states of all samples lie on disk; in memory are one layer's weights and its statistics. A layer's results are
complete before the next one begins, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from pathlib import Path

from inference_pio.artifact.process import return_freed_memory
from inference_pio.calibration.collect import Collector
from inference_pio.calibration.options import CalibrationOptions, Progress
from inference_pio.calibration.plan import check_images, plan_calibration
from inference_pio.calibration.report import summary
from inference_pio.calibration.result import VERSION, Calibration, identity, is_result_of
from inference_pio.calibration.text import read_calibration
from inference_pio.calibration.workspace import Workspace, refuse_existing
from inference_pio.checkpoint.checkpoint import Checkpoint


def calibrate(
    checkpoint: str | Path,
    out: str | Path,
    options: CalibrationOptions | None = None,
    *,
    force: bool = False,
    reuse: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Calibrate a recipe on text and write the result to the folder `out`; open it.

    The same checkpoint, text and options give the same result, byte for byte. A run that was stopped goes on from the
    layer it was at; `reuse` takes a finished result at `out` that these inputs would only make again.

    Raises BadInputError for a checkpoint, a text or options that do not fit, and for activations that are not finite
    (naming the layer); ResourceLimitError when memory or disk do not suffice.
    """
    options, out, report = options or CalibrationOptions(), Path(out), progress or (lambda phase, done, total: None)
    refuse_existing(out, force)
    with Checkpoint.open(checkpoint) as source:
        plan = plan_calibration(source, options)
        size = options.samples, options.length, plan.spec.vocab_size
        text = read_calibration(options.text, source.path, *size, plan.spec.vision)
        check_images(plan, text)
        report("expected memory", 0, plan.expected_memory())
        if text.is_default:
            report("bundled text", 0, 1)
        origin = identity(source)
        decisive = {"rules": plan.recipe.rules(), "options": options.decisive()}
        key = {"version": VERSION, "source": origin, "text": text.sha256, **decisive}
        if reuse and is_result_of(out, key):
            return Calibration(out)
        with Workspace(out, {**key, "threads": plan.threads}) as work:  # sums depend on the threads in their last bits
            collector = Collector(plan, source, work, text.in_turn(), text.pictures, report)
            if work.finished_layers():
                report("resumed", work.finished_layers(), plan.spec.layers)
            for index in range(work.finished_layers(), plan.spec.layers):
                work.save_layer(index, collector.calibrate_layer(index, report))
                return_freed_memory()
            layers = [work.layer_facts(index) for index in range(plan.spec.layers)]
            work.finish(
                {
                    "version": VERSION,
                    "recipe": plan.recipe.name,
                    "source": origin,
                    "layers": plan.spec.layers,
                    "files": work.hashes(),
                    "text": {"name": text.name, "sha256": text.sha256, "default": text.is_default},
                    "fingerprint": text.fingerprint.to_json(),
                    "images": list(text.images),
                    "vision": work.tower_facts(),
                    **decisive,
                    "exceptions": sorted(name for layer in layers for name in layer["exceptions"]),
                    **summary(layers),
                }
            )
    return Calibration(out)
