"""What each step of a calibration is worth: accuracy of plain rounding and of every step added, on four checkpoints.

The checkpoints are the bundled tiny one and copies of it with planted outliers (tools/plant_outliers.py), which compute
the same function. Calibrated on the bundled texts, measured on the bundled held-out text. `gate` is the recipe's own,
without the simulation (`inference-pio verify` makes that too). All in one process: no speed or memory is measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import ROOT, last_line, percent, run, save, show, work_folder

KINDS = ("tiny", "norms", "massive", "keys")
STEPS = ("observer", "clipping", "smoothing", "second_order", "exact_columns", "exceptions")
"""In the order in which they are added; `observer` is the choice of static steps, else they are min-max."""
INTEGER_STEPS = ("clipping", "smoothing", "exact_columns", "exceptions")
RECIPE_STEPS = {
    "int8-calibrated": ("clipping", "smoothing"),
    "int4-calibrated": ("clipping", "smoothing", "second_order"),
    "w8a8": INTEGER_STEPS,
    "w8a8-static": ("observer", *INTEGER_STEPS),
}
"""What means anything for a recipe."""


@dataclass(frozen=True)
class Case:
    """A recipe on a checkpoint with some steps on."""

    checkpoint: str
    recipe: str
    label: str
    steps: tuple[str, ...]


def cases(kinds: list[str], recipes: list[str], alone: bool) -> Iterator[Case]:
    """Plain rounding, every step added to those before it, and with `alone` every step by itself."""
    for recipe in recipes:
        steps = RECIPE_STEPS[recipe]
        for kind in kinds:
            yield Case(kind, recipe, "rounding", ())
            for count, step in enumerate(steps, 1):
                yield Case(kind, recipe, f"+ {step.replace('_', ' ')}", steps[:count])
            for step in steps[1:] if alone else ():  # the first one is alone already
                yield Case(kind, recipe, f"{step.replace('_', ' ')} alone", (step,))


def checkpoint_of(kind: str, work: Path) -> Path:
    """The tiny checkpoint, or its copy with outliers, planted once."""
    from inference_pio.tiny import tiny_checkpoint

    tiny = tiny_checkpoint("qwen3")
    if kind == "tiny":
        return tiny
    folder = work / kind
    if not folder.exists():
        done = run([sys.executable, ROOT / "tools" / "plant_outliers.py", tiny, folder, "--kind", kind])
        if done.code != 0:
            raise SystemExit(last_line(done.stderr))
    return folder


def measure(case: Case, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Calibrate, export and verify one case; the figures that the table shows."""
    from inference_pio.calibration.observers import ObserverKind
    from inference_pio.calibration.options import CalibrationOptions, Switches
    from inference_pio.calibration.pipeline import calibrate
    from inference_pio.export.options import ExportOptions
    from inference_pio.export.pipeline import export
    from inference_pio.verify import VerifyOptions, verify

    source = checkpoint_of(case.checkpoint, work)
    made, out = work / "calibration", work / "artifact"
    wanted = CalibrationOptions(
        precision=case.recipe,
        samples=options.samples,
        length=options.length,
        observer=None if "observer" in case.steps else ObserverKind.MIN_MAX,
        switches=Switches(**{name: name in case.steps for name in STEPS if name != "observer"}),
        threads=options.threads,
    )
    calibrate(source, made, wanted, force=True)
    export(source, out, ExportOptions(precision=case.recipe, calibration=made, threads=options.threads, force=True))
    asked = VerifyOptions(positions=options.positions, threads=options.threads, simulation=False)
    report = verify(out, source, asked)
    return {
        **asdict(case),
        "kl_mean": report.metrics.kl_mean,
        "top1_agreement": report.metrics.top1_agreement,
        "top1_agreement_clear": report.metrics.top1_agreement_clear,
        "perplexity_ratio": report.metrics.perplexity_ratio,
        "gate": "passed" if report.passed else "FAILED",
        "failures": list(report.gate.failures),
    }


def display(rows: list[dict[str, Any]]) -> None:
    columns = {
        "recipe": None,
        "checkpoint": None,
        "label": None,
        "kl_mean": lambda value: f"{value:.2e}",
        "top1_agreement": percent,
        "perplexity_ratio": lambda value: f"{value:.4f}",
        "gate": None,
    }
    show(rows, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", choices=RECIPE_STEPS, default=["w8a8", "w8a8-static", "int4-calibrated"]
    )
    parser.add_argument("--checkpoints", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--alone", action="store_true", help="every step by itself as well")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256, help="tokens of a sample")
    parser.add_argument("--positions", type=int, default=4096, help="of the held-out text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the checkpoints here and reuse them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args()
    rows = []
    with work_folder(options.work) as work:
        for case in cases(options.checkpoints, options.recipes, options.alone):
            rows.append(measure(case, work, options))
            print(f"{case.recipe} {case.checkpoint} {case.label}", file=sys.stderr, flush=True)
    display(rows)
    asked = {key: getattr(options, key) for key in ("samples", "length", "positions", "threads")}
    save(options.json, {"asked": asked, "rows": rows})


if __name__ == "__main__":
    main()
