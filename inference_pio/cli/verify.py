"""`inference-pio verify`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from inference_pio.artifact.manifest import Accuracy
from inference_pio.cli.common import FILE, FOLDER, cache_dir, json_option, size_text, write_json
from inference_pio.cli.export import locate
from inference_pio.errors import GateFailedError
from inference_pio.verify import Report, VerifyOptions, estimate, verify


@click.command("verify")
@click.argument("artifact", type=FOLDER)
@click.option("--against", "checkpoint", metavar="CHECKPOINT", help="The original: a folder or a hub id.")
@click.option("--text", type=FILE, help="UTF-8 text to compare on; the bundled held-out text by default.")
@click.option("--data", type=FILE, help="Models that see: questions about images (JSONL); bundled drawings by default.")
@click.option("--gate", metavar="NAME|FILE", help="The gate to pass; by the artifact's recipe by default.")
@click.option("--baseline", type=FILE, help="An earlier JSON report that must not be undercut.")
@click.option("--reference", type=FILE, help="A saved reference, instead of running the original.")
@click.option("--save-reference", type=FILE, help="Save the original's answers for later runs.")
@click.option("--window", type=int, default=VerifyOptions.window, show_default=True, help="Tokens per window.")
@click.option("--positions", type=int, help="Positions to compare; 4,096 by default, 10,240 for fp32.")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="What runs the artifact: what it was made for (auto), a device (cpu, cuda, cuda:N), or chain for one of "
    "TensorRT on the CPU.",
)
@click.option("--threads", type=int, help="Threads; the libraries' choice by default.")
@click.option("--scratch", type=FOLDER, help="Folder for intermediate logits.")
@click.option("--no-simulation", is_flag=True, help="Skip the excess gate: half the time, half the proof.")
@click.option("--html", type=FILE, help="Write a self-contained page with plots.")
@json_option
def command(
    artifact: Path, checkpoint: str | None, html: Path | None, json_out: str | None, no_simulation: bool, **values: Any
) -> None:
    """Measure how far ARTIFACT is from its original; exit code 3 when its gate fails."""
    source = None if checkpoint is None else locate(checkpoint)
    with Bars() as bars:
        options = VerifyOptions(simulation=not no_simulation, progress=bars, cache_dir=cache_dir(), **values)
        needed = estimate(artifact, source, options)
        click.echo(
            f"expected: peak memory {size_text(needed.peak_memory_bytes)}, scratch {size_text(needed.scratch_bytes)}",
            err=True,
        )
        report = verify(artifact, source, options)
    if html is not None:
        report.write_html(html)
    if json_out is not None:
        write_json(report.to_dict(), json_out)
    if json_out != "-":
        show(report)
    if not report.passed:
        raise GateFailedError(f"{artifact} failed gate {report.gate.name}: {'; '.join(report.gate.failures)}")


def artifact_verifier(
    checkpoint: Path, out: Path, data: Path | None = None, backend: str = "auto"
) -> Callable[[Path], Accuracy]:
    """A verifier for `export`: shows its progress and, when the gate fails, leaves a report beside `out`."""

    def check(folder: Path) -> Accuracy:
        with Bars() as bars:
            options = VerifyOptions(data=data, backend=backend, cache_dir=cache_dir(), progress=bars)
            report = verify(folder, checkpoint, options)
        if not report.passed:
            page = out.with_name(f"{out.name}.verify.html")
            report.write_html(page)
            report.write_json(page.with_suffix(".json"))
            click.echo(f"the report is in {page}", err=True)
        return report.to_accuracy()

    return check


def show(report: Report) -> None:
    """The verdict and the main figures on standard output."""
    values = report.to_dict()
    click.echo(f"gate {report.gate.name}: {'passed' if report.passed else 'FAILED'}")
    for failure in report.gate.failures:
        click.echo(f"  {failure}")
    mean, p99, worst = (_figure(values[key], ".2e") for key in ("kl_mean", "kl_p99", "kl_max"))
    top1, clear = (_figure(values[key], ".2%") for key in ("top1_agreement", "top1_agreement_clear"))
    click.echo(f"mean KL           {mean} nats (p99 {p99}, max {worst})")
    click.echo(f"top-1 agreement   {top1} (away from near ties {clear})")
    click.echo(f"perplexity ratio  {_figure(values['perplexity_ratio'], '.5f')}")
    click.echo(f"positions         {values['positions']:,}")
    for note in report.notes:
        click.echo(f"note: {note}")


def _figure(value: float | None, form: str) -> str:
    return "not measurable" if value is None else format(value, form)


class Bars:
    """A progress bar per phase of a verification, on a terminal."""

    def __init__(self) -> None:
        self._phase = ""
        self._bar: tqdm[Any] | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self._close()
            self._phase, self._bar = phase, tqdm(total=total, desc=phase, disable=None)
        assert self._bar is not None
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
