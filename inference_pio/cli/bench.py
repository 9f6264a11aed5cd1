"""`inference-pio bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from inference_pio.cli.common import (
    DEVICE_OPTION,
    FOLDER,
    backend_option,
    cache_dir,
    json_option,
    size_text,
    write_json,
)


@click.command("bench")
@click.argument("artifact", type=FOLDER)
@click.option(
    "--prompt-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Length of the prompt."
)
@click.option("--new-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="Tokens to generate.")
@backend_option
@DEVICE_OPTION
@click.option("--threads", type=int, help="Threads; one per physical core by default.")
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Runs to take the median of.")
@json_option
def command(artifact: Path, json_out: str | None, device: str | None, **values: Any) -> None:
    """Measure ARTIFACT: medians over repeated runs of one prompt, without the prefix cache."""
    from inference_pio.runtime.bench import bench

    result = bench(artifact, cache_dir=cache_dir(), device=device or "auto", **values)
    if json_out is not None:
        write_json(result, json_out)
        return
    click.echo(f"prefill         {result['prefill_tokens_per_s']:.1f} tokens/s ({values['prompt_tokens']} tokens)")
    click.echo(f"decode          {result['decode_tokens_per_s']:.1f} tokens/s ({values['new_tokens']} tokens)")
    click.echo(f"first token     {result['time_to_first_token_s']:.3f} s")
    click.echo(f"load            {result['load_s']:.3f} s")
    click.echo(f"outside kernels {result['outside_run_share']:.1%} of a decode step")
    click.echo(f"memory          {size_text(result['steady_rss_bytes'])}, peak {size_text(result['peak_rss_bytes'])}")
