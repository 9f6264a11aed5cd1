"""Ceilings of speed from bytes and operations: no program can be faster on the given figures, ours will be slower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inference_pio.graphs.hardware.hardware import Card
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.planning.rules import Rules
from inference_pio.planning.weights import (
    Part,
    PartSize,
    Product,
    attention_operations,
    layer_contexts,
)


@dataclass(frozen=True)
class Site:
    """A processor, its memory, and the parts that it computes.

    `compute` is the type of its floating point. `on_disk` is the share of its parts' bytes that is read from a drive of
    `disk_gb_s` each time. A site with `attention` holds the cache, whose tokens take `cache_bytes` each.
    """

    card: Card
    rules: Rules
    compute: str
    parts: dict[Part, PartSize]
    attention: bool
    cache_bytes: int = 0
    on_disk: float = 0.0
    disk_gb_s: float = 0.0

    def seconds(self, read: float, cache: float, operations: dict[Product, float]) -> float:
        """At best: memory, drive and arithmetic all busy at once, `read` bytes of weights, `cache` of the cache."""
        memory = (read + cache) / (self.card.bandwidth_gb_s * 1e9)
        drive = read * self.on_disk / (self.disk_gb_s * 1e9) if self.on_disk else 0.0
        arithmetic = sum(count / self.rules.rate(self.card, kind, self.compute) for kind, count in operations.items())
        return max(memory, drive, arithmetic)


@dataclass(frozen=True)
class Model:
    """What speed depends on beside the weights."""

    spec: DecoderSpec
    sites: tuple[Site, ...]

    def decode(self, context: int) -> float:
        """Tokens per second of one sequence after `context` tokens."""
        return 1.0 / sum(self._token_seconds(site, context) for site in self.sites)

    def products(self) -> float:
        """Tokens per second of an endless prompt whose attention and head cost nothing: products with weights alone."""
        seconds = [site.seconds(0.0, 0.0, _operations(site, 1, Part.LAYERS, Part.EXPERTS)) for site in self.sites]
        return 1.0 / sum(seconds)

    def prefill(self, prompt: int) -> float:
        """Tokens per second of a prompt of `prompt` tokens in one piece, the last one's logits included."""
        return prompt / sum(self._prompt_seconds(site, prompt) for site in self.sites)

    def image_seconds(self, patches: int) -> float | None:
        """Seconds of the vision tower over one image, None without one."""
        vision = self.spec.vision
        if vision is None:
            return None
        (site,) = (site for site in self.sites if Part.VISION in site.parts)
        operations = _operations(site, patches, Part.VISION)
        attention = 4.0 * vision.hidden_size * patches**2 * vision.depth
        operations[Product.FLOATS] = operations.get(Product.FLOATS, 0.0) + attention
        return site.seconds(site.parts[Part.VISION].stored, 0.0, operations)

    def _token_seconds(self, site: Site, context: int) -> float:
        read = sum(size.read for part, size in site.parts.items() if part is not Part.VISION)
        operations = _operations(site, 1, Part.LAYERS, Part.HEAD, Part.EXPERTS)
        cache = 0.0
        if site.attention:
            attended = list(layer_contexts(self.spec, context))
            cache = site.cache_bytes * sum(attended) / self.spec.layers
            _add(operations, sum(attention_operations(self.spec, positions) for positions in attended))
        return site.seconds(read, cache, operations)

    def _prompt_seconds(self, site: Site, prompt: int) -> float:
        read = sum(self._prompt_bytes(part, size, prompt) for part, size in site.parts.items())
        operations = _operations(site, prompt, Part.LAYERS, Part.EXPERTS)
        for product, count in _operations(site, 1, Part.HEAD).items():
            operations[product] = operations.get(product, 0.0) + count
        if site.attention:
            for window in self.spec.windows:
                _add(operations, attention_operations(self.spec, _attended(prompt, window)))
        return site.seconds(read, site.cache_bytes * prompt if site.attention else 0.0, operations)

    def _prompt_bytes(self, part: Part, size: PartSize, prompt: int) -> float:
        """Every weight once; of experts those that some token chose, if all are as likely; rows of the table."""
        if part is Part.TABLE:
            return size.read * prompt
        if part is Part.VISION:
            return 0.0
        if part is Part.EXPERTS and self.spec.moe is not None:
            moe = self.spec.moe
            return size.stored * (1.0 - (1.0 - moe.active / moe.count) ** prompt)
        return size.stored


def _attended(prompt: int, window: int | None) -> int:
    """Pairs of a token and one that it attends to, itself included, over a prompt."""
    full = prompt if window is None else min(prompt, window)
    return full * (full + 1) // 2 + (prompt - full) * full


def _operations(site: Site, tokens: int, *parts: Part) -> dict[Product, float]:
    found: dict[Product, float] = {}
    for part in parts:
        for product, count in site.parts[part].operations.items() if part in site.parts else ():
            found[product] = found.get(product, 0.0) + count * tokens
    return found


def _add(operations: dict[Product, float], count: float) -> None:
    operations[Product.FLOATS] = operations.get(Product.FLOATS, 0.0) + count


def parts_of(sizes: dict[Part, PartSize], wanted: Iterable[Part]) -> dict[Part, PartSize]:
    """Those of `wanted` that the model has, in the model's order."""
    chosen = set(wanted)
    return {part: size for part, size in sizes.items() if part in chosen}
