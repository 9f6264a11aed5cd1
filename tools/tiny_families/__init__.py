"""What is particular about each family of tiny checkpoints; the file name is the config's `model_type`."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tiny_routing import Balance

FOLDER = Path(__file__).parent
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 2048  # entries of the tokenizer of qwen3, whose text entries all families have


@dataclass(frozen=True)
class Plan:
    """How to train; the defaults made the bundled Qwen3."""

    steps: int = 1400
    warmup: int = 100
    cosine: int = 2600  # where the cosine would end; the cool-down comes earlier
    cooldown: int = 600
    block: int = 1024  # tokens that stay together, hence the longest training sequence
    blocks_per_step: int = 4
    learning_rate: float = 1e-2
    final_share: float = 0.02
    weight_decay: float = 0.1
    clip: float = 1.0
    chats: int = 2400
    tool_chats: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Tokens:
    """Entries after the tokenizer's text, and the part that some of them play."""

    special: tuple[str, ...]
    stops: tuple[str, ...]
    """Tokens that end generation; the first is the tokenizer's `eos_token`."""
    visible: tuple[str, ...] = ()
    """Further entries, which decoding never leaves out."""
    tokenizer_class: str = "Qwen2Tokenizer"


def no_tensors(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Nothing is published beside the model's own tensors."""
    return {}


@dataclass(frozen=True)
class Family:
    """A tiny checkpoint: its config.json, model class, tokenizer entries and training."""

    config: dict[str, Any]
    architecture: type
    tokens: Tokens
    plan: Plan
    start: tuple[int, ...] = ()
    """Layers of the bundled Qwen3 that training starts from; none: random weights."""
    balance: Balance = Balance.NONE
    thinks: bool = False
    """Whether half of the conversations have reasoning before the last answer."""
    extra_tensors: Callable[[dict[str, Any], int], dict[str, torch.Tensor]] = no_tensors
    """Published tensors that the trained model does not have, from the config and a seed."""
    preprocessor: dict[str, Any] | None = None
    """preprocessor_config.json of a model that sees images."""

    @property
    def name(self) -> str:
        return str(self.config["model_type"])

    @property
    def chat_template(self) -> str:
        """Jinja source."""
        return (FOLDER / f"{self.name}.jinja").read_text(encoding="utf-8")

    def model(self) -> torch.nn.Module:
        """The untrained model in float32."""
        config = self.architecture.config_class(**deepcopy(self.config))  # it changes what it is given
        return self.architecture._from_config(config, experts_implementation="eager").float()


def names() -> list[str]:
    """Families that can be trained."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def family(name: str) -> Family:
    """The family of this name, one of `names()`."""
    found = import_module(f"tiny_families.{name}").FAMILY
    assert isinstance(found, Family)
    return found
