"""`inference-pio demo`."""

from __future__ import annotations

from pathlib import Path

import click

from inference_pio.cli.common import FOLDER, cache_dir

PROMPT = "def read_file(path):\n    "


@click.command("demo")
@click.option(
    "-o",
    "--output",
    "out",
    type=FOLDER,
    default=Path("artifacts/demo-qwen3-int8"),
    show_default=True,
    help="Where the artifact goes; an earlier demo there is replaced.",
)
def command(out: Path) -> None:
    """Export the bundled tiny model to int8, verify it against the original, and generate text.

    The model has 1.9 million parameters and learned from Python's own sources: expect the shape of code, not sense.
    """
    from inference_pio.cli.export import BarProgress
    from inference_pio.cli.verify import artifact_verifier
    from inference_pio.export.options import ExportOptions
    from inference_pio.export.pipeline import export
    from inference_pio.runtime import Engine, EngineConfig, SamplingParams
    from inference_pio.tiny import tiny_checkpoint

    checkpoint = tiny_checkpoint("qwen3")
    click.echo(f"exporting {checkpoint.name} to {out} (int8)")
    verifier = artifact_verifier(checkpoint, out)
    artifact = export(checkpoint, out, ExportOptions(force=True), progress=BarProgress(), verifier=verifier)
    accuracy = artifact.manifest.accuracy
    assert accuracy is not None  # the verifier ran
    click.echo(f"gate {accuracy.gate} passed: mean KL {accuracy.metrics['kl_mean']:.1e} nats")
    with Engine.open(out, EngineConfig(cache_dir=cache_dir())) as engine:
        click.echo(PROMPT, nl=False)
        for delta in engine.stream(PROMPT, SamplingParams(max_new_tokens=48)):
            click.echo(delta.text, nl=False)
    click.echo(f"\n\nnext: inference-pio inspect {out}")
