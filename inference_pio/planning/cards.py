"""The card that a plan is for: a name, a class, a file, or what is in this machine."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.errors import BadInputError
from inference_pio.graphs.hardware import AUTO, profile_of, profiles
from inference_pio.graphs.hardware.hardware import Card, Hardware
from inference_pio.machine.cpu import cpu_name
from inference_pio.machine.gpus import find_gpus

LEAST, MOST = 1e-6, 1e9
"""Of a card's figures, in their units: what lies outside is a mistake."""
NUMBERS = ("memory_gib", "bandwidth_gb_s", "fp32_tflops", "fp16_tflops", "int8_tops")
NEEDED = ("profile", "name", "bandwidth_gb_s", "fp32_tflops", "int8_tops")
DEFAULT_HOST = "i5-10210u"


def find_cards(name: str) -> tuple[Hardware, tuple[Card, ...]]:
    """The profile and the cards meant by a card's name, a profile's (all its cards), a .json file or `auto`.

    Raises BadInputError for names that are not known, broken files, and machines that no figures are known of.
    """
    if name == AUTO:
        return _own()
    if name.endswith(".json"):
        hardware, card = read_card(Path(name))
        return hardware, (card,)
    for profile in profiles():
        card_of = profile.card(name)
        if card_of is not None:
            return profile, (card_of,)
        if name == profile.name and profile.cards:
            return profile, profile.cards
    known = ", ".join(profile.name for profile in profiles() if profile.cards)
    raise BadInputError(
        f"hardware '{name}' is not known: use the name of a card, a class of them ({known}), or a .json file with "
        f"{', '.join(NEEDED)}"
    )


def find_host(name: str) -> Card:
    """The CPU called `name`, or that of a .json file; raises BadInputError for others and for GPUs."""
    hardware, cards = find_cards(name)
    if hardware.is_gpu or len(cards) != 1:
        raise BadInputError(f"--host {name} is not one CPU: use for example {DEFAULT_HOST}")
    return cards[0]


def read_card(path: Path) -> tuple[Hardware, Card]:
    """A card and its profile from a JSON object with the fields of `Card` and the name of a `profile`."""
    values = read_json_object(path)
    known = {"profile", *(field.name for field in fields(Card))}
    unknown = sorted(set(values) - known)
    if unknown:
        raise BadInputError(f"{path} has the unknown entry '{unknown[0]}': known are {', '.join(sorted(known))}")
    missing = [key for key in NEEDED if key not in values]
    if missing:
        raise BadInputError(f"{path} lacks '{missing[0]}': it needs {', '.join(NEEDED)}")
    profile = next((p for p in profiles() if p.name == values["profile"]), None)
    if profile is None:
        names = ", ".join(p.name for p in profiles())
        raise BadInputError(f"{path}: profile {values['profile']!r} is not known: use one of {names}")
    return profile, _card(path, profile, values)


def _card(path: Path, profile: Hardware, values: dict[str, Any]) -> Card:
    numbers = {key: values.get(key, 0.0) for key in NUMBERS}
    for key, value in numbers.items():
        optional = key == "fp16_tflops" or (key == "memory_gib" and not profile.is_gpu)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInputError(f"{path}: {key} must be a number, not {value!r}")
        if value < 0 or (value == 0 and not optional):
            raise BadInputError(f"{path}: {key} is {value}, and must be more than 0")
        if value > MOST or (not optional and value < LEAST):
            raise BadInputError(f"{path}: {key} is {value}, which no card has: check its unit")
    name, title, display = values["name"], values.get("title", ""), values.get("display", True)
    if not isinstance(name, str) or not name or not isinstance(title, str) or not isinstance(display, bool):
        raise BadInputError(f"{path}: name and title must be text and display true or false")
    return Card(name=name, title=title or name, display=display, **{key: float(v) for key, v in numbers.items()})


def _own() -> tuple[Hardware, tuple[Card, ...]]:
    """The card of this machine, by the name that its driver gives; its CPU where there is no GPU."""
    gpus = find_gpus()
    profile = profile_of(gpus[0]) if gpus else None
    name = gpus[0].name if gpus else cpu_name()
    among = [profile] if profile else [p for p in profiles() if p.is_gpu == bool(gpus)]
    for found in among:
        for card in found.cards:
            if card.title == name:
                return found, (card,)
    like = ""
    if profile:
        like = f" such as {min(profile.cards, key=lambda card: abs(card.memory - gpus[0].memory)).name}"
    raise BadInputError(
        f"no figures are known of {name}: name another card with --hardware{like}, or describe it in a .json file with "
        f"{', '.join(NEEDED)}"
    )
