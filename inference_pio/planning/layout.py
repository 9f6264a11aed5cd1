"""Which part of a model lives in which memory, and what is left for the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference_pio.graphs.hardware.hardware import Card
from inference_pio.graphs.spec import DecoderSpec, VisionSpec
from inference_pio.planning.case import Case
from inference_pio.planning.rules import (
    CONTEXT_BYTES,
    CPU_RULES,
    DESKTOP_BYTES,
    DISK_GB_S,
    IMAGE_PATCHES,
    PROCESS_BYTES,
    SYSTEM_BYTES,
    WORKSPACE_BYTES,
)
from inference_pio.planning.speed import Site, parts_of
from inference_pio.planning.weights import Part, PartSize

GPU, RAM, NVME = "GPU", "RAM", "NVMe"
DENSE = (Part.LAYERS, Part.HEAD, Part.VISION, Part.TABLE)


@dataclass(frozen=True)
class Memory:
    """Bytes of GPU memory (None on a CPU) and of the host's memory that may be used in all."""

    gpu: int | None
    host: int


@dataclass
class Layout:
    """`places` are (part, memory, bytes) and `reserved` (what for, memory, bytes).

    `spare` bytes are left for the cache, negative where weights and reserves alone are too much.
    """

    cache_place: str
    spare: int = 0
    places: list[tuple[str, str, int]] = field(default_factory=list)
    reserved: list[tuple[str, str, int]] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    lacking: str = ""
    """What there is too little of, "" where weights and reserves fit."""


def lay_out(
    spec: DecoderSpec, sizes: dict[Part, PartSize], case: Case, memory: Memory, cache: int, angles: int, tokens: int
) -> Layout:
    """Put every part in its place. A token takes `cache` bytes of cache, and `angles` of the table of rotary angles.

    A CPU keeps memory for `tokens` of them.
    """
    if memory.gpu is None:
        return _on_cpu(spec, sizes, case, memory.host, cache, (cache + angles) * tokens)
    return _on_gpu(spec, sizes, case, memory.gpu, memory.host, cache)


def _on_gpu(spec: DecoderSpec, sizes: dict[Part, PartSize], case: Case, vram: int, ram: int, cache: int) -> Layout:
    rules = case.rules
    reserved = [("CUDA", GPU, CONTEXT_BYTES), ("activations", GPU, WORKSPACE_BYTES + _image_bytes(spec.vision))]
    if case.card.display:
        reserved.append(("desktop", GPU, DESKTOP_BYTES))
    found = Layout(GPU, reserved=[*reserved, ("system", RAM, SYSTEM_BYTES), ("process", RAM, PROCESS_BYTES)])
    device = {Part.LAYERS, Part.HEAD, Part.VISION}
    device |= {Part.TABLE} if rules.table_on_device else set()
    device |= {Part.EXPERTS} if rules.experts_on_device else set()
    used = 0
    for part in parts_of(sizes, device):
        size = _own_bytes(part, sizes, spec, device)
        used += size
        if size:
            found.places.append((part.value, GPU, size))
    found.spare = vram - used - sum(size for _, _, size in reserved)
    found.sites.append(Site(case.card, rules, case.recipe.compute, parts_of(sizes, device), True, cache))
    elsewhere = [part for part in (Part.TABLE, Part.EXPERTS) if part not in device]
    left = _fill(found, sizes, elsewhere, ram - SYSTEM_BYTES - PROCESS_BYTES, case.host)
    if found.spare < 0:
        found.lacking = f"{_mb(-found.spare)} of GPU memory"
    elif left < 0:
        found.lacking = f"{_mb(-left)} of the host's memory"
    return found


def _on_cpu(spec: DecoderSpec, sizes: dict[Part, PartSize], case: Case, ram: int, cache: int, needed: int) -> Layout:
    rules = case.rules
    process = PROCESS_BYTES + _image_bytes(spec.vision)
    found = Layout(RAM, reserved=[("system", RAM, SYSTEM_BYTES), ("process", RAM, process)])
    budget = ram - SYSTEM_BYTES - process
    everything = sum(_own_bytes(part, sizes, spec, set(sizes)) for part in sizes)
    found.spare = max(budget - everything, needed)
    room = budget - found.spare
    for group, attention in ((DENSE, True), ((Part.EXPERTS,), False)):
        parts = parts_of(sizes, group)
        own = {part: _own_bytes(part, sizes, spec, set(sizes)) for part in parts}
        total = sum(own.values())
        kept = max(0, min(total, room))
        room -= total
        for part, size in own.items():
            _split(found, part, size, kept / total if total else 1.0)
        if parts:
            on_disk = 1.0 - kept / total
            found.sites.append(Site(case.card, rules, case.recipe.compute, parts, attention, cache, on_disk, DISK_GB_S))
    layer = sizes[Part.LAYERS].stored // spec.layers
    if budget < needed + min(everything, layer):
        found.lacking = f"{_mb(needed + min(everything, layer) - budget)} of memory"
    return found


def _fill(found: Layout, sizes: dict[Part, PartSize], parts: list[Part], room: int, host: Card) -> int:
    """Put `parts` into `room` bytes of the host's memory and the rest on its drive; returns what was left."""
    left = room
    for part in parts:
        if part not in sizes:
            continue
        total = sizes[part].stored
        kept = max(0, min(total, left))
        left -= kept
        _split(found, part, total, kept / total)
        on_disk = 1.0 - kept / total
        found.sites.append(Site(host, CPU_RULES, "float32", {part: sizes[part]}, False, 0, on_disk, DISK_GB_S))
    return left


def _split(found: Layout, part: Part, size: int, kept: float) -> None:
    in_memory = round(size * kept)
    for place, held in ((RAM, in_memory), (NVME, size - in_memory)):
        if held:
            found.places.append((part.value, place, held))


def _own_bytes(part: Part, sizes: dict[Part, PartSize], spec: DecoderSpec, together: set[Part]) -> int:
    """Bytes of a part beside the parts in `together`: a tied table is the head's bytes."""
    if part is Part.TABLE and spec.tied_embeddings and Part.HEAD in together:
        return 0
    return sizes[part].stored


def _image_bytes(vision: VisionSpec | None) -> int:
    """float32 activations of an image in the vision tower: scores of all heads, and channels inside the MLP."""
    if vision is None:
        return 0
    channels = 4 * vision.hidden_size + vision.intermediate_size
    return 4 * IMAGE_PATCHES * (vision.heads * IMAGE_PATCHES + channels)


def _mb(size: int) -> str:
    return f"{-(-size // 1_000_000)}MB"
