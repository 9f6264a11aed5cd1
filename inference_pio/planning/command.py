"""The export that a plan comes down to, and remarks on it."""

from __future__ import annotations

import shlex
from pathlib import Path

from inference_pio.build.options import DEFAULT_IMAGE_TOKENS
from inference_pio.export.plan import kv_caches
from inference_pio.graphs.hardware import AUTO, find_hardware
from inference_pio.graphs.spec import DecoderSpec
from inference_pio.planning.case import Case
from inference_pio.planning.layout import NVME, Layout
from inference_pio.planning.plan import PlanOptions
from inference_pio.planning.weights import Part


def export_command(case: Case, name: str, context: int, options: PlanOptions) -> str:
    """The export that a plan comes down to, quoted for a shell."""
    precision = case.recipe.name if options.precision == "auto" else options.precision
    words = ["inference-pio", "export", name, "-o", _folder(case, name), "--target", case.target]
    hardware = case.hardware if case.hardware.is_gpu else find_hardware(AUTO, case.target)
    words += ["--hardware", hardware.name, "--precision", precision, "--context-length", str(context)]
    if options.kv_cache != AUTO:
        words += ["--kv-cache", options.kv_cache]
    for key in options.ignore_config_keys:
        words += ["--ignore-config-key", key]
    if case.recipe.calibrated or options.kv_cache == "int8":
        words += ["--calibration", "default"]
    return shlex.join(words)


def build_command(case: Case, name: str, context: int) -> str:
    """What makes engines of the export, on the machine with the card; "" where nothing is built."""
    if not case.rules.is_built:
        return ""
    return shlex.join(["inference-pio", "build", _folder(case, name), "--max-context", str(context)])


def _folder(case: Case, name: str) -> str:
    path = Path(name)
    own = path.name if path.name not in ("", "..") else path.resolve().name
    return f"artifacts/{own}-{case.hardware.name}-{case.recipe.name}"


def exported_caches(case: Case) -> list[str]:
    """The storages of the cache that an export can have."""
    return kv_caches(case.made_for, case.recipe)


def notes_on(spec: DecoderSpec, case: Case, layout: Layout, kv_cache: str) -> list[str]:
    """What a reader of a plan should know besides."""
    notes = []
    caches = exported_caches(case)
    if kv_cache not in caches:
        notes.append(f"this version cannot export it yet: its caches are {' and '.join(caches)}")
    on_disk = {part for part, place, _ in layout.places if place == NVME}
    if on_disk - {Part.EXPERTS.value}:
        notes.append("weights stay on the drive and are read again for every token: a smaller precision is faster")
    elif on_disk:
        notes.append("experts on the drive are read when a token chooses them; all are taken to be as likely")
    if spec.moe is not None and not case.rules.experts_on_device:
        notes.append("the CPU computes the experts, so every layer waits for it")
    if spec.vision is not None and case.rules.is_built:
        notes.append(
            f"memory is planned for images of up to {DEFAULT_IMAGE_TOKENS} tokens, as the vision tower is built for: "
            "larger ones need build --max-image-tokens, and memory that grows with the square of it"
        )
    return notes
