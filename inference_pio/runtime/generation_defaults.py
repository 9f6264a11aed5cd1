"""Reads the sampling part of a generation_config.json, with the meaning transformers gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.runtime.values import (
    checked_bool,
    checked_float,
    checked_int,
    checked_strings,
    checked_token_ids,
)

# What transformers' generate() assumes once a config says do_sample and is silent about these.
_SAMPLING_TEMPERATURE = 1.0
_SAMPLING_TOP_K = 50
_SAMPLING_TOP_P = 1.0

# Fields that change transformers' output and that the runtime does not implement, with their neutral values.
_NOT_IMPLEMENTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "typical_p": (1, 1.0),
    "top_h": (),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "no_repeat_ngram_size": (0,),
    "bad_words_ids": (),
    "sequence_bias": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1, 1.0),
    "watermarking_config": (),
}


@dataclass(frozen=True)
class GenerationDefaults:
    """A checkpoint's own sampling defaults; None where it has none, `temperature` also when it is greedy."""

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    stop: tuple[str, ...] | None
    eos_token_ids: frozenset[int]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> GenerationDefaults:
        """Read the fields used here; raises BadInputError that names an unusable one."""
        if not isinstance(config, Mapping):
            raise BadInputError("generation_config.json must hold a JSON object: export the artifact again")
        samples = checked_bool(_where("do_sample"), config.get("do_sample")) or False
        temperature = _float(config, "temperature", least=0.0)
        top_k = checked_int(_where("top_k"), config.get("top_k"), least=0)
        top_p = _float(config, "top_p", above=0.0, most=1.0)
        if samples:
            temperature = _SAMPLING_TEMPERATURE if temperature is None else temperature
            top_k = _SAMPLING_TOP_K if top_k is None else top_k
            top_p = _SAMPLING_TOP_P if top_p is None else top_p
        return cls(
            max_new_tokens=checked_int(_where("max_new_tokens"), config.get("max_new_tokens"), least=1),
            temperature=temperature if samples else None,
            top_k=top_k,
            top_p=top_p,
            min_p=_float(config, "min_p", least=0.0, most=1.0),
            repetition_penalty=_float(config, "repetition_penalty", above=0.0),
            stop=checked_strings(_where("stop_strings"), config.get("stop_strings")),
            eos_token_ids=_eos_ids(config.get("eos_token_id")),
        )


def not_implemented(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The set fields of a generation config that transformers would obey and this runtime leaves out."""
    return tuple(
        name
        for name, neutral in _NOT_IMPLEMENTED.items()
        if config.get(name) is not None and config[name] not in neutral
    )


def _where(name: str) -> str:
    return f"generation_config.json's {name}"


def _float(
    config: Mapping[str, Any],
    name: str,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> float | None:
    return checked_float(_where(name), config.get(name), least=least, above=above, most=most)


def _eos_ids(value: Any) -> frozenset[int]:
    single = value is not None and not isinstance(value, (list, tuple))
    return frozenset(checked_token_ids(_where("eos_token_id"), [value] if single else value) or ())
