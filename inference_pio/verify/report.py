"""The result of a verification, and its JSON form."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inference_pio.artifact.files import write_atomically
from inference_pio.artifact.manifest import Accuracy
from inference_pio.verify.gates import Excess, GateResult
from inference_pio.verify.metrics import Metrics

REPORT_VERSION = 1


@dataclass(frozen=True)
class Report:
    """Everything that was found out; `to_dict` has the keys of the JSON form.

    `gate` is the verdict, with failures of the tokenizer check and of the baseline in it. `simulation` has the figures
    of KL(original || simulation), `excess` the comparison with it; both are None where none was run. `artifact`,
    `text`, `tokenizer`, `versions` say what was compared, `findings` holds worst positions, the first divergence and
    what the plots show, `notes` what a reader should know about these figures. `calibration` has what a
    calibration said about its layers (see `calibration_facts.py`), None without one.
    """

    gate: GateResult
    metrics: Metrics
    clear_gap: float
    kl_is_lower_bound: bool
    simulation: Metrics | None
    excess: Excess | None
    artifact: dict[str, Any]
    text: dict[str, Any]
    tokenizer: dict[str, Any]
    source_matches: bool
    versions: dict[str, str]
    findings: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = ()
    baseline: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None

    @property
    def passed(self) -> bool:
        return self.gate.passed

    def to_accuracy(self) -> Accuracy:
        """The part that an artifact's manifest records."""
        figures = asdict(self.metrics)
        metrics = {key: value if value is None or math.isfinite(value) else None for key, value in figures.items()}
        return Accuracy(self.gate.name, self.passed, metrics, list(self.gate.failures))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; a figure that could not be measured or is not finite is None."""
        values = {
            "report_version": REPORT_VERSION,
            "passed": self.passed,
            "gate": self.gate.to_dict(),
            **self.metrics.to_dict(),
            "clear_gap": self.clear_gap,
            "kl_is_lower_bound": self.kl_is_lower_bound,
            "simulation": None if self.simulation is None else self.simulation.to_dict(),
            "excess": None if self.excess is None else asdict(self.excess),
            "artifact": self.artifact,
            "text": self.text,
            "tokenizer": self.tokenizer,
            "source_matches": self.source_matches,
            "versions": self.versions,
            "notes": list(self.notes),
            "baseline": self.baseline,
            "calibration": self.calibration,
            **self.findings,
        }
        finite: dict[str, Any] = _finite(values)
        return finite

    def write_json(self, path: Path) -> None:
        """Write `to_dict()`, completely or not at all; raises BadInputError when the place cannot be written to."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogatepass")))

    def write_html(self, path: Path) -> None:
        """Write one self-contained page, completely or not at all; raises BadInputError as `write_json`."""
        from inference_pio.verify.report_html import render

        page = render(self.to_dict())
        write_atomically(path, lambda file: file.write(page.encode("utf-8", "replace")))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
