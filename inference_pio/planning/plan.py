"""The plan of a model on a machine: places, cache, ceilings of speed, and the export to run."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from inference_pio.calibration.recipes import Recipe, find_recipe
from inference_pio.errors import BadInputError
from inference_pio.export.plan import KV_CACHES, check_context_length, check_int8_cache
from inference_pio.graphs.architectures import read_config
from inference_pio.graphs.hardware import find_hardware
from inference_pio.graphs.hardware.hardware import Card, Hardware
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.graphs.targets import find_target
from inference_pio.planning.cards import DEFAULT_HOST, find_cards, find_host
from inference_pio.planning.layout import Layout, Memory, lay_out
from inference_pio.planning.rules import (
    CACHE_ITEM_BYTES,
    CONTEXTS,
    IMAGE_PATCHES,
    MAPPED_CONTEXT,
    PROMPTS,
    RULES,
    SHORTEST_CONTEXT,
)
from inference_pio.planning.speed import Model
from inference_pio.planning.weights import Part, part_sizes

DEFAULT_RAM = 8_000_000_000
CONTEXT_STEP = 256
"""A context that follows from the memory is rounded down to a multiple of this."""


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is for.

    `hardware` is a card, a class of cards, a .json file or `auto`, `host` the CPU beside a GPU; `vram` and `ram` are
    bytes, by default the card's own and 8 GB (with `auto`, all of this machine's). `target` None takes the first of the hardware's where the model fits.
    """

    hardware: str = "auto"
    host: str = DEFAULT_HOST
    vram: int | None = None
    ram: int | None = None
    target: str | None = None
    precision: str = "auto"
    kv_cache: str = "fp32"
    context_length: int | None = None


@dataclass(frozen=True)
class Plan:
    """A plan, ready for JSON. Sizes are bytes, speeds tokens per second; `reason` says why a model does not fit.

    `kv_tokens` are the tokens of cache that fit, by storage; `prefill_products` is the speed of an endless prompt
    whose attention costs nothing. Speeds are None and the lists of them empty where the model does not fit.
    """

    hardware: str
    card: str
    host: str | None
    target: str
    dialect: str
    precision: str
    kv_cache: str
    fits: bool
    reason: str
    memory: dict[str, int | None]
    places: list[dict[str, Any]]
    reserved: list[dict[str, Any]]
    context_length: int
    kv_bytes_per_token: int
    kv_tokens: dict[str, int]
    decode: list[dict[str, float]]
    prefill: list[dict[str, float]]
    prefill_products: float | None
    image_seconds: float | None
    command: str
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class _Case:
    """One card with one target and recipe."""

    hardware: Hardware
    card: Card
    host: Card
    target: str
    recipe: Recipe

    @property
    def key(self) -> str:
        dialect = self.hardware.dialect_of(self.target)
        return f"{self.target}/{dialect}" if dialect else self.target


def make_plans(config: dict[str, Any], name: str, options: PlanOptions) -> list[Plan]:
    """A plan for every card that `options.hardware` means, of the model of a config.json; `name` is for the command.

    Raises BadInputError for what does not go together; a model that does not fit is a plan too.
    """
    architecture, spec = read_config(config)
    hardware, cards = find_cards(options.hardware)
    host = find_host(options.host)
    check_context_length(spec, options.context_length)
    if options.kv_cache not in CACHE_ITEM_BYTES:
        raise BadInputError(f"--kv-cache {options.kv_cache} is not known: use {', '.join(CACHE_ITEM_BYTES)}")
    for flag, size in (("--vram", options.vram), ("--ram", options.ram)):
        if size is not None and size <= 0:
            raise BadInputError(f"{flag} must be more than 0 bytes")
    if not hardware.is_gpu and options.vram is not None:
        raise BadInputError(f"--vram has no meaning for {options.hardware}, which is a CPU: use --ram")
    return [_best(architecture, spec, hardware, card, host, name, options, len(cards) > 1) for card in cards]


def _best(
    architecture: ModuleType,
    spec: DecoderSpec,
    hardware: Hardware,
    card: Card,
    host: Card,
    name: str,
    options: PlanOptions,
    among_many: bool,
) -> Plan:
    """The plan with the first target that fits, else with the first."""
    plans, faults = [], []
    memory = _memory(hardware, card, options, among_many)
    targets = hardware.targets if options.target is None else (options.target,)
    for target in targets:
        try:
            dialect = hardware.dialect_of(target)
            key = f"{target}/{dialect}" if dialect else target
            case = _Case(hardware, card, host, target, find_recipe(options.precision, key))
            _check_cache(spec, case, options.kv_cache)
        except BadInputError as fault:
            faults.append(fault)
            continue
        plans.append(_plan(architecture, spec, case, memory, name, options))
        if plans[-1].fits:
            return plans[-1]
    if not plans:
        raise faults[0]
    return plans[0]


def _memory(hardware: Hardware, card: Card, options: PlanOptions, among_many: bool) -> Memory:
    own = psutil.virtual_memory().total if options.hardware == "auto" else DEFAULT_RAM
    host = own if options.ram is None else options.ram
    if not hardware.is_gpu:
        return Memory(None, host)
    if options.vram is None:
        return Memory(card.memory, host)
    if options.vram > card.memory and not among_many:
        raise BadInputError(
            f"--vram {options.vram} is more than the {card.memory} bytes of {card.name}: leave it out, or describe "
            "another card in a .json file"
        )
    return Memory(min(options.vram, card.memory), host)


def _check_cache(spec: DecoderSpec, case: _Case, kind: str) -> None:
    caches = RULES[case.key].caches
    if kind not in caches:
        raise BadInputError(f"--kv-cache {kind} is not available on {case.target}: use {' or '.join(caches)}")
    if kind == "int8":
        check_int8_cache(spec, case.target)


def _has_cache(spec: DecoderSpec, case: _Case, kind: str) -> bool:
    try:
        _check_cache(spec, case, kind)
    except BadInputError:
        return False
    return True


def _plan(
    architecture: ModuleType, spec: DecoderSpec, case: _Case, memory: Memory, name: str, options: PlanOptions
) -> Plan:
    rules = RULES[case.key]
    sizes = part_sizes(architecture, spec, case.recipe)
    elements = len(spec.cache_kinds) * spec.layers * spec.kv_heads * spec.head_dim
    per_token = elements * CACHE_ITEM_BYTES[options.kv_cache]
    kept = options.context_length or min(MAPPED_CONTEXT, spec.context_length)
    layout = lay_out(spec, sizes, rules, case.card, case.host, memory, per_token, kept)
    kinds = [kind for kind in rules.caches if _has_cache(spec, case, kind)]
    tokens = {kind: max(0, layout.spare) // (elements * CACHE_ITEM_BYTES[kind]) for kind in kinds}
    context, reason = _context(spec, case, layout, tokens[options.kv_cache], per_token, options)
    model, fits = Model(spec, tuple(layout.sites)), not reason
    contexts = sorted({*(c for c in CONTEXTS if c <= context), context}) if fits else []
    prompts = [prompt for prompt in PROMPTS if prompt <= context] if fits else []
    cache_place = "RAM" if memory.gpu is None else "GPU"
    return Plan(
        hardware=case.hardware.name,
        card=case.card.name,
        host=case.host.name if case.hardware.is_gpu else None,
        target=case.target,
        dialect=case.hardware.dialect_of(case.target),
        precision=case.recipe.name,
        kv_cache=options.kv_cache,
        fits=fits,
        reason=reason,
        memory={"gpu": memory.gpu, "host": memory.host},
        places=[
            *({"part": part, "place": place, "bytes": size} for part, place, size in layout.places),
            {"part": "cache", "place": cache_place, "bytes": context * per_token},
        ],
        reserved=[{"for": what, "place": place, "bytes": size} for what, place, size in layout.reserved],
        context_length=context,
        kv_bytes_per_token=per_token,
        kv_tokens=tokens,
        decode=[{"context": c, "tokens_per_s": model.decode(c)} for c in contexts],
        prefill=[{"prompt_tokens": p, "tokens_per_s": model.prefill(p)} for p in prompts],
        prefill_products=model.products() if fits else None,
        image_seconds=model.image_seconds(IMAGE_PATCHES) if fits else None,
        command=_command(case, name, context, options) if fits else "",
        notes=_notes(spec, case, layout, options.kv_cache),
    )


def _context(
    spec: DecoderSpec, case: _Case, layout: Layout, tokens: int, per_token: int, options: PlanOptions
) -> tuple[int, str]:
    """The context that is planned for, and why the model does not fit with it ("" where it does)."""
    asked = options.context_length
    needed = min(SHORTEST_CONTEXT, spec.context_length) if asked is None else asked
    if spec.moe is not None and RULES[case.key].experts_on_device is None:
        return needed, f"{case.key} has no operator for experts"
    if layout.lacking:
        return needed, f"{layout.lacking} are lacking before the first token of cache"
    if tokens < needed:
        lacking = -(-(needed * per_token - layout.spare) // 10**6)
        return needed, f"{lacking}MB are lacking for a cache of {needed} tokens"
    if asked is not None:
        return asked, ""
    fitting = min(spec.context_length, tokens)
    return (fitting // CONTEXT_STEP * CONTEXT_STEP or fitting), ""


def _command(case: _Case, name: str, context: int, options: PlanOptions) -> str:
    precision = case.recipe.name if options.precision == "auto" else options.precision
    folder = f"artifacts/{Path(name).name}-{case.hardware.name}-{case.recipe.name}"
    words = ["inference-pio", "export", name, "-o", folder, "--target", case.target]
    hardware = case.hardware if case.hardware.is_gpu else find_hardware("auto", case.target)
    words += ["--hardware", hardware.name, "--precision", precision, "--context-length", str(context)]
    if options.kv_cache != "fp32":
        words += ["--kv-cache", options.kv_cache]
    if case.recipe.calibrated or options.kv_cache == "int8":
        words += ["--calibration", "default"]
    return shlex.join(words)


def _notes(spec: DecoderSpec, case: _Case, layout: Layout, kv_cache: str) -> list[str]:
    notes = []
    try:
        find_target(case.target, case.hardware.dialect_of(case.target))
    except BadInputError as fault:
        notes.append(f"this version cannot export it yet: {fault}")
    if kv_cache not in KV_CACHES:
        notes.append(f"this version cannot export it yet: its caches are {' and '.join(KV_CACHES)}")
    on_disk = {part for part, place, _ in layout.places if place == "NVMe"}
    if on_disk - {Part.EXPERTS.value}:
        notes.append("weights stay on the drive and are read again for every token: a smaller precision is faster")
    elif on_disk:
        notes.append("experts on the drive are read when a token chooses them; all are taken to be as likely")
    if spec.moe is not None and not RULES[case.key].experts_on_device:
        notes.append("the CPU computes the experts, so every layer waits for it")
    return notes
