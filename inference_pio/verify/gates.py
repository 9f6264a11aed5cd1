"""Gates: how far an artifact may be from its original. The numbers stand in `gates.json`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from inference_pio.artifact.strict_json import parse_json
from inference_pio.errors import BadInputError
from inference_pio.verify.metrics import Metrics

UPPER_BOUNDS = ("kl_mean", "kl_p99", "kl_max", "perplexity_ratio", "max_logit_difference")
LOWER_BOUNDS = ("top1_agreement", "top1_agreement_clear", "top5_agreement")
_QUALIFIER = re.compile(r"-(exact|block\d+)")
"""What a weight format's name may hold besides the name of its gate."""
_COARSEST_FIRST = ("int4", "w8a8-static", "w8a8", "int8", "bf16", "fp16", "fp32")


@dataclass(frozen=True)
class ExcessLimits:
    """How much worse than its own simulation an artifact may be, and how far from it; see `gates.json`."""

    factor: float
    floor: float
    max_logit_difference: float
    kl_mean: float
    twin_factor: float
    disturbance: float


@dataclass(frozen=True)
class Excess:
    """An artifact beside its simulation (`simulation.py`): mean KL in nats and the largest logit difference.

    `twin_kl_mean` separates the simulation from its twin, whose embeddings, norms and biases differ in the last bits;
    None where kernels are exact.
    """

    simulation_kl_mean: float
    agreement_kl_mean: float
    agreement_max_logit_difference: float | None
    twin_kl_mean: float | None


@dataclass(frozen=True)
class Check:
    """One comparison of a gate; `measured` is None where the figure could not be measured, which fails."""

    metric: str
    measured: float | None
    bound: str
    limit: float
    passed: bool

    @property
    def failure(self) -> str:
        if self.measured is None:
            return f"{self.metric} could not be measured, {self.bound} {self.limit:.6g} is asked for"
        return f"{self.metric} is {self.measured:.6g}, {self.bound} {self.limit:.6g} is allowed"


@dataclass(frozen=True)
class GateResult:
    """The verdict: `failures` says in words what was out of bounds."""

    name: str
    passed: bool
    failures: list[str]
    checks: tuple[Check, ...] = ()

    def with_failures(self, failures: list[str]) -> GateResult:
        """The same verdict with findings from outside the gate added."""
        return replace(self, passed=self.passed and not failures, failures=[*self.failures, *failures])

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "passed": self.passed,
            "failures": list(self.failures),
            "checks": [asdict(check) for check in self.checks],
        }


@dataclass(frozen=True)
class Gate:
    """Named bounds. `absolute` maps metric -> bound; `clear_gap` is in nats of log-probability.

    `twin_counts`: the artifact may be as far from the original as the twin is from the simulation.
    """

    name: str
    absolute: Mapping[str, float]
    clear_gap: float
    excess: ExcessLimits
    small_model_parameters: int = 0
    twin_counts: bool = False

    def for_model(self, parameters: int) -> Gate:
        """This gate for a model of that many parameters: small ones are judged away from near ties."""
        if parameters >= self.small_model_parameters or "top1_agreement" not in self.absolute:
            return self
        absolute = dict(self.absolute)
        raw = absolute.pop("top1_agreement")
        absolute["top1_agreement_clear"] = max(raw, absolute.get("top1_agreement_clear", 0.0))
        return replace(self, absolute=absolute)

    def with_int8_cache(self) -> Gate:
        """This gate for an artifact whose cache is rounded as well: bounds are wider by a fixed amount."""
        allowance: dict[str, float] = _data()["int8_cache"]
        absolute = {
            name: limit - allowance["agreement"] if name in LOWER_BOUNDS else limit + allowance.get(name, 0.0)
            for name, limit in self.absolute.items()
        }
        clear_gap = max(self.clear_gap, 2 * math.sqrt(absolute.get("kl_mean", 0.0)))
        return replace(self, name=f"{self.name}+int8-cache", absolute=absolute, clear_gap=clear_gap)

    def with_compute(self, dtype: str, formats: Iterable[str]) -> Gate:
        """This gate for an artifact that computes in `dtype`, which the simulation, in float32, does not.

        How far rounding to sixteen bits carries in a model is what a twin that is disturbed as much shows. It counts
        against the original where no weight's format is rounded further; else that is what separates the two.
        """
        disturbance: float | None = _data()["compute"].get(dtype)
        if disturbance is None:
            return self
        floats = {"fp32", "fp16", "bf16"}.issuperset(formats)
        return replace(self, excess=replace(self.excess, disturbance=disturbance), twin_counts=floats)

    def check(self, metrics: Metrics, excess: Excess | None = None) -> GateResult:
        """Judge metrics, and the artifact beside its simulation where there is one."""
        figures = metrics.to_dict()
        checks = [_check(metric, figures[metric], limit) for metric, limit in self.absolute.items()]
        if excess is not None:
            checks += self._check_excess(metrics, excess)
        failures = [check.failure for check in checks if not check.passed]
        return GateResult(self.name, not failures, failures, tuple(checks))

    def _check_excess(self, metrics: Metrics, excess: Excess) -> list[Check]:
        allowed = self.excess.factor * excess.simulation_kl_mean
        if self.twin_counts and excess.twin_kl_mean is not None:
            allowed = max(allowed, self.excess.twin_factor * excess.twin_kl_mean)
        allowed += self.excess.floor
        checks = [_upper("kl_mean against simulation", metrics.kl_mean, allowed)]
        if excess.twin_kl_mean is not None:
            limit = max(self.excess.kl_mean, self.excess.twin_factor * excess.twin_kl_mean)
            return [*checks, _upper("kl_mean to simulation", excess.agreement_kl_mean, limit)]
        difference, limit = excess.agreement_max_logit_difference, self.excess.max_logit_difference
        return [*checks, _upper("max_logit_difference to simulation", difference, limit)]


def load_gate(name_or_file: str | Path) -> Gate:
    """A gate by name, by recipe, or from a JSON file of your own (docs/verify.md has its keys).

    Raises BadInputError for an unknown name and for a file with unknown keys or impossible values.
    """
    data = _data()
    name = data["recipes"].get(str(name_or_file))
    if name is not None:
        entry = {**data["gates"][name], "name": name}
        return _gate({**entry, "small_model_parameters": data["small_model_parameters"]}, f"gate '{name}'")
    path = Path(name_or_file)
    try:
        entry = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(data["gates"])
        raise BadInputError(
            f"'{name_or_file}' is neither a gate ({known}) nor a readable gate file: name one of them"
        ) from error
    except ValueError as error:
        raise BadInputError(f"gate file {path} is not valid JSON in UTF-8: {error}") from error
    return _gate(entry, f"gate file {path}", default_name=path.stem)


def gate_for_recipe(recipe: str, formats: Iterable[str] = ()) -> Gate:
    """The gate of a recipe by name; for a recipe of the user's own that of the coarsest of its weight `formats`.

    Raises BadInputError when neither is known.
    """
    data = _data()
    if recipe in data["recipes"]:
        return load_gate(recipe)
    names = {_QUALIFIER.sub("", form) for form in formats}
    coarsest = next((name for name in _COARSEST_FIRST if name in names), None)
    if coarsest is None:
        raise BadInputError(f"recipe '{recipe}' has no gate of its own: name one, or give a gate file")
    return load_gate(coarsest)


def baseline_limits() -> Mapping[str, float]:
    """By how much a report may be worse than its baseline; see `gates.json`."""
    limits: Mapping[str, float] = _data()["baseline"]
    return limits


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(__file__).with_name("gates.json").read_text(encoding="utf-8"))
    return data


def _gate(entry: Any, where: str, default_name: str = "") -> Gate:
    _known_keys(entry, ("name", "absolute", "clear_gap", "excess", "small_model_parameters"), where)
    absolute = entry.get("absolute")
    _known_keys(absolute, (*UPPER_BOUNDS, *LOWER_BOUNDS), f"'absolute' in {where}")
    if not absolute:
        raise BadInputError(f"'absolute' in {where} is empty: name at least one bound")
    limits = entry.get("excess", {})
    defaults: dict[str, float] = _data()["excess"]
    _known_keys(limits, tuple(defaults), f"'excess' in {where}")
    name = entry.get("name", default_name)
    if not isinstance(name, str) or not name.isprintable():
        raise BadInputError(f"'name' in {where} must be a printable text")
    return Gate(
        name=name,
        absolute={key: _number(value, f"'{key}' in {where}") for key, value in absolute.items()},
        clear_gap=_number(entry.get("clear_gap", 0.0), f"'clear_gap' in {where}"),
        excess=ExcessLimits(
            **{key: _number(limits.get(key, value), f"'{key}' in {where}") for key, value in defaults.items()}
        ),
        small_model_parameters=int(
            _number(entry.get("small_model_parameters", 0), f"'small_model_parameters' in {where}")
        ),
    )


def _known_keys(entry: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(entry, dict):
        raise BadInputError(f"{where} must be a JSON object")
    unknown = sorted(set(entry) - set(keys))
    if unknown:
        raise BadInputError(f"{where} has the unknown key '{unknown[0]}': allowed are {', '.join(keys)}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e15:
        raise BadInputError(f"{where} must be a finite number that is not negative")
    return float(value)


def _check(metric: str, measured: float | None, limit: float) -> Check:
    if metric in UPPER_BOUNDS:
        return _upper(metric, measured, limit)
    passed = measured is not None and measured >= limit
    return Check(metric, measured, "at least", limit, passed)


def _upper(metric: str, measured: float | None, limit: float) -> Check:
    passed = measured is not None and not math.isnan(measured) and measured <= limit
    return Check(metric, measured, "at most", limit, passed)
