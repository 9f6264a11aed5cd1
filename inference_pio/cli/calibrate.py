"""`inference-pio calibrate`."""

from __future__ import annotations

from pathlib import Path

import click

from inference_pio.calibration.observers import ObserverKind
from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.cli.calibration_options import CalibrationBar, calibration_options, step_names
from inference_pio.cli.common import FOLDER, SIZE, json_option, visible, write_json
from inference_pio.cli.export import HARDWARE_HELP, TARGET_HELP, locate
from inference_pio.errors import BadInputError

MENTIONED = 12
"""Experts without a token that are named; all of them stand in calibration.json."""


@click.command("calibrate")
@click.argument("checkpoint")
@click.option("-o", "--output", "out", type=FOLDER, required=True, help="The folder of the result.")
@click.option(
    "--precision", default=CalibrationOptions.precision, show_default=True, help="The recipe, or a .json file."
)
@click.option(
    "--target",
    default=CalibrationOptions.target,
    show_default=True,
    help=TARGET_HELP,
)
@click.option("--hardware", default=CalibrationOptions.hardware, show_default=True, help=HARDWARE_HELP)
@click.option(
    "--calibration", "text", default="default", show_default=True, metavar="FILE|default", help="The text to run."
)
@calibration_options
@click.option(
    "--observer",
    type=click.Choice([kind.value for kind in ObserverKind]),
    help="How static scales are chosen; by default the way with the least error, layer by layer.",
)
@click.option("--block-size", type=int, help="Weights per scale, as for an export.")
@click.option("--layers", type=int, help="Keep only the first N layers, for tests.")
@click.option("--max-memory", type=SIZE, help="Refuse to use more memory than this.")
@click.option("--threads", type=int, help="Threads; all cores by default.")
@click.option("--force", is_flag=True, help="Replace a calibration that stands at the output.")
@click.option("--ignore-config-key", "ignore_config_keys", multiple=True, metavar="KEY", help="As for an export.")
@json_option
def command(
    checkpoint: str,
    out: Path,
    precision: str,
    target: str,
    hardware: str,
    text: str,
    samples: int,
    sample_length: int,
    without: tuple[str, ...],
    observer: str | None,
    block_size: int | None,
    layers: int | None,
    max_memory: int | None,
    threads: int | None,
    force: bool,
    ignore_config_keys: tuple[str, ...],
    json_out: str | None,
) -> None:
    """Run CHECKPOINT on text, layer by layer, and choose how its weights and activations are rounded.

    The result is a folder for `export --calibration`. An interrupted run goes on when the same command is given again.
    """
    from inference_pio.calibration.pipeline import calibrate
    from inference_pio.calibration.plan import is_static
    from inference_pio.calibration.recipes import find_recipe
    from inference_pio.graphs.targets import find_pair

    recipe = find_recipe(precision, find_pair(target, hardware)[0].key)
    if observer is not None and not is_static(recipe):
        raise BadInputError(f"--observer is for static scales, and recipe {recipe.name} has none: leave it out")
    options = CalibrationOptions(
        precision=precision,
        target=target,
        hardware=hardware,
        text=text,
        samples=samples,
        length=sample_length,
        observer=None if observer is None else ObserverKind(observer),
        switches=Switches().without(step_names(without)),
        block_size=block_size,
        layers=layers,
        max_memory=max_memory,
        threads=threads,
        ignore_config_keys=ignore_config_keys,
    )
    with calibrate(locate(checkpoint), out, options, force=force, progress=CalibrationBar()) as result:
        facts = result.facts
    if json_out is not None:
        write_json(facts, json_out)
        return
    bought = facts["bought"]
    click.echo(f"wrote {visible(str(out))}: {facts['recipe']}, {facts['layers']} layers")
    click.echo(
        f"mean error of a linear layer {bought['mean_error']:.2e}, by plain rounding {bought['mean_plain_error']:.2e}"
    )
    click.echo(f"smoothed {bought['smoothed']}, with exact columns {bought['with_exact_columns']}")
    unseen = facts["experts"]["unseen"]
    if unseen:
        some = ", ".join(f"{layer}.{expert}" for layer, expert in unseen[:MENTIONED])
        more = f" and {len(unseen) - MENTIONED} more" if len(unseen) > MENTIONED else ""
        click.echo(f"experts without a token, rounded plainly (layer.expert): {some}{more}; use more or other text")
    for title, key in (
        ("kept in float32", "exceptions"),
        ("worst", "worst"),
        ("suggested exceptions", "suggested_exceptions"),
    ):
        if facts[key]:
            click.echo(f"{title}: {visible(', '.join(facts[key]))}")
