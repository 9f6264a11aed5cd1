"""From a config.json to plans: every card, the first target that fits, the parts in their places."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from inference_pio.calibration.recipes import Recipe, find_recipe
from inference_pio.errors import BadInputError
from inference_pio.export.plan import check_context_length, check_int8_cache, check_overrides
from inference_pio.graphs.architectures import read_config
from inference_pio.graphs.hardware import AUTO
from inference_pio.graphs.hardware.hardware import Card, Hardware
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.planning import smaller
from inference_pio.planning.cards import find_cards, find_host
from inference_pio.planning.case import Case, key_of
from inference_pio.planning.command import build_command, export_command, exported_caches, notes_on
from inference_pio.planning.layout import Layout, Memory, lay_out
from inference_pio.planning.plan import NO_SPEEDS, Plan, PlanOptions, Smaller, Speeds
from inference_pio.planning.rules import (
    CACHE_ITEM_BYTES,
    CONTEXTS,
    IMAGE_PATCHES,
    MAPPED_CONTEXT,
    PROMPTS,
    SHORTEST_CONTEXT,
)
from inference_pio.planning.speed import Model
from inference_pio.planning.weights import (
    Part,
    PartSize,
    angle_bytes,
    artifact_bytes,
    part_sizes,
    tensor_shapes,
)

DEFAULT_RAM = 8_000_000_000
CONTEXT_STEP = 256
"""A context that follows from the memory is rounded down to a multiple of this."""


def make_plans(config: dict[str, Any], name: str, options: PlanOptions) -> list[Plan]:
    """A plan for every card that `options.hardware` means, of the model of a config.json; `name` is for the command.

    Raises BadInputError for what does not go together; a model that does not fit is a plan too.
    """
    architecture, spec = read_config(config, options.ignore_config_keys)
    hardware, cards = find_cards(options.hardware)
    check_context_length(spec, options.context_length)
    if options.kv_cache not in (AUTO, *CACHE_ITEM_BYTES):
        raise BadInputError(f"--kv-cache {options.kv_cache} is not known: use {AUTO}, {', '.join(CACHE_ITEM_BYTES)}")
    for flag, size in (("--vram", options.vram), ("--ram", options.ram)):
        if size is not None and size <= 0:
            raise BadInputError(f"{flag} must be more than 0 bytes")
    if not hardware.is_gpu and options.vram is not None:
        raise BadInputError(f"--vram has no meaning for {options.hardware}, which is a CPU: use --ram")
    host = find_host(options.host)
    planner = _Planner(spec, tensor_shapes(architecture, spec), hardware, host, name, options)
    return [planner.best(card, _memory(hardware, card, host, options, len(cards) > 1)) for card in cards]


def _memory(hardware: Hardware, card: Card, host: Card, options: PlanOptions, among_many: bool) -> Memory:
    """The GPU's and the host's; without `ram` all of this machine's with `auto`, else what a file says of the CPU."""
    cpu = host if hardware.is_gpu else card
    own = psutil.virtual_memory().total if options.hardware == AUTO else cpu.memory or DEFAULT_RAM
    ram = own if options.ram is None else options.ram
    if not hardware.is_gpu:
        return Memory(None, ram)
    if options.vram is None:
        return Memory(card.memory, ram)
    if options.vram > card.memory and not among_many:
        raise BadInputError(
            f"--vram {options.vram} is more than the {card.memory} bytes of {card.name}: leave it out, or describe "
            "another card in a .json file"
        )
    return Memory(min(options.vram, card.memory), ram)


@dataclass
class _Planner:
    """What the plans of one model have in common; sizes are worked out once per recipe."""

    spec: DecoderSpec
    shapes: dict[str, tuple[int, ...]]
    hardware: Hardware
    host: Card
    name: str
    options: PlanOptions
    sizes: dict[Recipe, dict[Part, PartSize]] = field(default_factory=dict)

    def best(self, card: Card, memory: Memory) -> Plan:
        """The plan with the first target that fits, else with the first; raises BadInputError where none can be."""
        cases = self.cases(card, self.options.precision)
        plans = (self.plan(case, memory) for case in cases)
        chosen = next((plan for plan in plans if plan.fits), None) or self.plan(cases[0], memory)
        if self.options.precision != AUTO or not smaller.is_worth_a_look(chosen):
            return chosen
        return replace(chosen, smaller=self.smaller(card, memory, chosen))

    def cases(self, card: Card, precision: str) -> list[Case]:
        """One for every target that takes the recipe and the cache; raises BadInputError where none does."""
        found, faults = [], []
        for target in self.hardware.targets if self.options.target is None else (self.options.target,):
            try:
                recipe = find_recipe(precision, key_of(self.hardware, target))
                check_overrides(recipe, self.shapes)
                case = Case(self.hardware, card, self.host, target, recipe)
                self.check_cache(case, self.cache_of(case))
            except BadInputError as fault:
                faults.append(fault)
            else:
                found.append(case)
        if not found:
            raise faults[0]
        return found

    def smaller(self, card: Card, memory: Memory, usual: Plan) -> Smaller | None:
        """What to name beside a plan that does not fit or is slow."""
        try:
            cases = self.cases(card, smaller.RECIPE)
        except BadInputError:
            return None
        return smaller.smaller(usual, (self.plan(case, memory) for case in cases))

    def cache_of(self, case: Case) -> str:
        """The storage of the cache."""
        return case.caches(self.spec)[0] if self.options.kv_cache == AUTO else self.options.kv_cache

    def check_cache(self, case: Case, kind: str) -> None:
        """Raise BadInputError for a cache that the target or the model does not have."""
        caches = case.caches(self.spec)
        if kind == "int8" and kind in case.rules.other_caches:
            check_int8_cache(self.spec, case.target)
        if kind not in caches:
            raise BadInputError(
                f"--kv-cache {kind} is not available on {case.key} with --precision {case.recipe.name}: use "
                f"{' or '.join(caches)}"
            )

    def plan(self, case: Case, memory: Memory) -> Plan:
        """The plan of one case."""
        spec, kind = self.spec, self.cache_of(case)
        if case.recipe not in self.sizes:
            self.sizes[case.recipe] = part_sizes(self.shapes, spec, case.recipe)
        elements = len(spec.cache_kinds) * spec.layers * spec.kv_heads * spec.head_dim
        per_token = elements * CACHE_ITEM_BYTES[kind]
        kept = self.options.context_length or min(MAPPED_CONTEXT, spec.context_length)
        angles = angle_bytes(spec, case.recipe) if case.recipe.compute in case.rules.stores_angles else 0
        layout = lay_out(spec, self.sizes[case.recipe], case, memory, per_token, angles, kept)
        tokens = {k: max(0, layout.spare) // (elements * CACHE_ITEM_BYTES[k] + angles) for k in case.caches(spec)}
        context, reason = self.context(case, layout, tokens[kind], per_token + angles)
        speeds = _speeds(Model(spec, tuple(layout.sites)), context) if not reason else NO_SPEEDS
        exported = exported_caches(case)
        runs = not reason and kind in exported
        growing = [("rotary angles", context * angles), ("cache", context * per_token)]
        return Plan(
            hardware=case.hardware.name,
            card=case.card.name,
            host=case.host.name if case.hardware.is_gpu else None,
            target=case.target,
            dialect=case.hardware.dialect_of(case.target),
            precision=case.recipe.name,
            kv_cache=kind,
            fits=not reason,
            reason=reason,
            memory={"gpu": memory.gpu, "host": memory.host},
            artifact_bytes=artifact_bytes(self.sizes[case.recipe], spec) + context * angles,
            places=[
                *({"part": part, "place": place, "bytes": size} for part, place, size in layout.places),
                *({"part": part, "place": layout.cache_place, "bytes": size} for part, size in growing if size),
            ],
            reserved=[{"for": what, "place": place, "bytes": size} for what, place, size in layout.reserved],
            context_length=context,
            kv_bytes_per_token=per_token,
            kv_tokens=tokens,
            kv_exported=exported,
            speeds=speeds,
            command=export_command(case, self.name, context, self.options) if runs else "",
            build_command=build_command(case, self.name, context) if runs else "",
            notes=notes_on(spec, case, layout, kind),
        )

    def context(self, case: Case, layout: Layout, tokens: int, per_token: int) -> tuple[int, str]:
        """The context that is planned for, and why the model does not fit with it ("" where it does)."""
        asked, most = self.options.context_length, self.spec.context_length
        if asked is None:  # a cache of fixed size is taken whole by every sequence: as much as an export makes it
            most = min(most, case.made_for.default_context or most)
        needed = min(SHORTEST_CONTEXT, most) if asked is None else asked
        experts = self.sizes[case.recipe].get(Part.EXPERTS)
        if experts is not None and experts.quantized and not case.rules.quantized_experts:
            return needed, f"{case.key} has no operator for experts stored as integers"
        if layout.lacking:
            return needed, f"{layout.lacking} are lacking before the first token of cache"
        if tokens < needed:
            lacking = -(-(needed * per_token - layout.spare) // 10**6)
            return needed, f"{lacking}MB are lacking for a cache of {needed} tokens"
        fitting = min(most, tokens)
        return asked or fitting // CONTEXT_STEP * CONTEXT_STEP or fitting, ""


def _speeds(model: Model, context: int) -> Speeds:
    contexts = sorted({*(known for known in CONTEXTS if known <= context), context})
    return Speeds(
        decode=[{"context": c, "tokens_per_s": model.decode(c)} for c in contexts],
        prefill=[{"prompt_tokens": p, "tokens_per_s": model.prefill(p)} for p in PROMPTS if p <= context],
        prefill_products=model.products(),
        image_seconds=model.image_seconds(IMAGE_PATCHES),
    )
