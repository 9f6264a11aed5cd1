"""What a plan is for, and what it says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from inference_pio.graphs.hardware import AUTO
from inference_pio.planning.cards import DEFAULT_HOST


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is for.

    `hardware` is a card, a class of cards, a .json file or `auto`, `host` the CPU beside a GPU. `vram` and `ram` are
    bytes, by default the card's own, and what a file says of the CPU, else 8 GB (with `auto`, all of this machine's).
    `target` None takes the first of the hardware's where the model fits; `kv_cache` "auto" is the type that the recipe
    computes in.
    """

    hardware: str = AUTO
    host: str = DEFAULT_HOST
    vram: int | None = None
    ram: int | None = None
    target: str | None = None
    precision: str = "auto"
    kv_cache: str = AUTO
    context_length: int | None = None
    ignore_config_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speeds:
    """Ceilings in tokens per second: `decode` by tokens before, `prefill` by length of the prompt.

    `prefill_products` is that of an endless prompt whose attention costs nothing. `image_seconds` is the least time for
    an image, None where there is no vision tower.
    """

    decode: list[dict[str, float]]
    prefill: list[dict[str, float]]
    prefill_products: float | None
    image_seconds: float | None


NO_SPEEDS = Speeds([], [], None, None)


@dataclass(frozen=True)
class Smaller:
    """A recipe with fewer bytes that fits where the usual one does not, or is much faster, and its decode ceiling."""

    target: str
    precision: str
    tokens_per_s: float


@dataclass(frozen=True)
class Plan:
    """A plan, ready for JSON. Sizes are bytes; `reason` says why a model does not fit, then there are no speeds.

    `artifact_bytes` are the weights that an export writes, with the table of rotary angles where it has one.

    `kv_tokens` are the tokens of cache that fit, by storage; `kv_exported` names the storages that an export can have.
    `command` is the export and `build_command` what follows on the machine with the card, "" where there is none.
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
    artifact_bytes: int
    places: list[dict[str, Any]]
    reserved: list[dict[str, Any]]
    context_length: int
    kv_bytes_per_token: int
    kv_tokens: dict[str, int]
    kv_exported: list[str]
    speeds: Speeds
    command: str
    build_command: str
    notes: list[str]
    smaller: Smaller | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)
