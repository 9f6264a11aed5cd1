"""`inference-pio plan`."""

from __future__ import annotations

from typing import Any

import click

from inference_pio.cli.common import SIZE, hub_cache, json_option, size_text, visible, write_json
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.planning.plan import Plan, PlanOptions, Smaller

SMALLER = "choose a smaller precision, cache or context, other hardware or another target"


@click.command("plan")
@click.argument("checkpoint")
@click.option(
    "--hardware",
    default=PlanOptions.hardware,
    show_default=True,
    metavar="NAME|FILE",
    help="A card (gtx-1060-6gb), a class with all its cards (sm61), or a card described in a .json file.",
)
@click.option("--host", default=PlanOptions.host, show_default=True, metavar="NAME|FILE", help="The CPU beside a GPU.")
@click.option("--vram", type=SIZE, help="GPU memory to use; the card's own by default.")
@click.option("--ram", type=SIZE, help="Memory of the host; what a file says of it or 8GB, with auto what is there.")
@click.option("--target", help="Where the artifact will run; by default the first that fits.")
@click.option("--precision", default=PlanOptions.precision, show_default=True, help="The recipe, or a .json file.")
@click.option(
    "--kv-cache",
    default=PlanOptions.kv_cache,
    show_default=True,
    help="Its storage: auto, that of activations, or fp32, fp16, bf16, int8.",
)
@click.option("--context-length", type=int, help="Longest prompt plus answer; by default what memory allows.")
@click.option("--ignore-config-key", "ignore_config_keys", multiple=True, metavar="KEY", help="As for an export.")
@json_option
def command(checkpoint: str, json_out: str | None, **values: Any) -> int:
    """Say whether the model of CHECKPOINT fits a machine, where its parts live and how fast it can be at best.

    CHECKPOINT needs a config.json alone. The exit code is 4 where the model fits none of the cards.
    """
    try:
        from inference_pio.checkpoint.checkpoint import read_config
        from inference_pio.planning.planner import make_plans
    except ImportError as error:
        raise BadInputError(
            f"models cannot be planned here ({error}): install the exporter with pip install 'inference-pio[export]'"
        ) from None
    plans = make_plans(read_config(checkpoint, hub_cache()), checkpoint, PlanOptions(**values))
    if json_out is not None:
        write_json(plans[0].to_dict() if len(plans) == 1 else {"cards": [plan.to_dict() for plan in plans]}, json_out)
    elif len(plans) == 1:
        _show(plans[0])
    else:
        _table(plans)
    return 0 if any(plan.fits for plan in plans) else ResourceLimitError.exit_code


def _show(plan: Plan) -> None:
    gpu, host = plan.memory["gpu"], plan.memory["host"] or 0
    memory = size_text(host) if gpu is None else f"{size_text(gpu)}, {plan.host} with {size_text(host)}"
    _row("machine", f"{plan.card} ({plan.hardware}) with {memory}")
    target = "/".join(filter(None, (plan.target, plan.dialect)))
    _row("artifact", f"{target}, {plan.precision}, {plan.kv_cache} cache, {size_text(plan.artifact_bytes)}")
    _row("fits", "yes" if plan.fits else f"no: {plan.reason}; {SMALLER}")
    for entry in plan.places:
        _row(entry["part"], f"{size_text(entry['bytes']):>10}  {entry['place']}")
    for entry in plan.reserved:
        _row("reserved", f"{size_text(entry['bytes']):>10}  {entry['place']}, {entry['for']}")
    _row("cache", f"{size_text(plan.kv_bytes_per_token)} per token; room for {_capacity(plan)}")
    if plan.fits:
        _speeds(plan)
    for name, text in (("export", plan.command), ("build", plan.build_command)):
        if text:
            _row(name, text)
    if plan.smaller is not None:
        _row("smaller", f"{_options(plan.smaller)}: at most {plan.smaller.tokens_per_s:.1f} tokens/s")
    for note in plan.notes:
        _row("note", note)


def _capacity(plan: Plan) -> str:
    """Tokens by storage of the cache, those that no export has yet apart."""
    count = {kind: f"{tokens:,} {kind}" for kind, tokens in plan.kv_tokens.items()}
    ours, others = (
        [text for kind, text in count.items() if (kind in plan.kv_exported) is own] for own in (True, False)
    )
    return f"{', '.join(ours)} tokens" + (f" (not exported yet: {', '.join(others)})" if others else "")


def _options(smaller: Smaller) -> str:
    return f"--target {smaller.target} --precision {smaller.precision}"


def _speeds(plan: Plan) -> None:
    for decode in plan.speeds.decode:
        _row("decode", f"at most {decode['tokens_per_s']:.1f} tokens/s after {decode['context']:,.0f} tokens")
    for prefill in plan.speeds.prefill:
        _row("prefill", f"at most {prefill['tokens_per_s']:,.0f} tokens/s of {prefill['prompt_tokens']:,.0f} tokens")
    _row("prefill", f"at most {plan.speeds.prefill_products:,.0f} tokens/s in products with weights alone")
    if plan.speeds.image_seconds is not None:
        _row("image", f"at least {1000 * plan.speeds.image_seconds:.2g} ms for 512 x 512 pixels")


def _table(plans: list[Plan]) -> None:
    click.echo(f"{'card':<18} {'target':<16} {'precision':<16} {'context':>8} {'decode/s':>9} {'prefill/s':>10}")
    for plan in plans:
        target = "/".join(filter(None, (plan.target, plan.dialect)))
        start = f"{plan.card:<18} {target:<16} {plan.precision:<16}"
        if plan.fits:
            speed = f"{plan.speeds.decode[0]['tokens_per_s']:>9.1f} {plan.speeds.prefill_products or 0:>10,.0f}"
            row = f"{start} {plan.context_length:>8,} {speed}"
        else:
            row = f"{start} does not fit: {plan.reason}"
        smaller = f"; with {_options(plan.smaller)} {plan.smaller.tokens_per_s:.1f}" if plan.smaller else ""
        click.echo(f"{row}{smaller}")
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        click.echo(f"note: {visible(note)}")


def _row(name: str, text: str) -> None:
    click.echo(f"{name:<13} {visible(text)}")
