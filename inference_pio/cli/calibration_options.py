"""What `calibrate` and `export` share: options about the text and the steps, and how progress is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click
from tqdm import tqdm

from inference_pio.calibration.options import CalibrationOptions, Switches
from inference_pio.cli.common import size_text

F = TypeVar("F", bound=Callable[..., Any])


def calibration_options(function: F) -> F:
    """`--samples`, `--sample-length` and `--without`."""
    steps = [field.name.replace("_", "-") for field in fields(Switches)]
    options = [
        click.option(
            "--samples", type=int, default=CalibrationOptions.samples, show_default=True, help="Windows of text to run."
        ),
        click.option(
            "--sample-length",
            type=int,
            default=CalibrationOptions.length,
            show_default=True,
            help="Tokens of a window.",
        ),
        click.option(
            "--without",
            multiple=True,
            type=click.Choice(steps),
            help="Leave a step of the calibration out; repeatable.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """The options above under the names that `ExportOptions` has for them."""
    values = dict(values)
    values["calibration_samples"] = values.pop("samples")
    values["calibration_length"] = values.pop("sample_length")
    values["calibration_without"] = step_names(values.pop("without"))
    return values


def step_names(words: tuple[str, ...]) -> tuple[str, ...]:
    """Steps as `Switches` spells them."""
    return tuple(word.replace("-", "_") for word in words)


class CalibrationBar:
    """Tells the expected memory and, on a terminal, how far a calibration is; everything on standard error."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase == "expected memory":
            click.echo(f"expected for the calibration: peak memory {size_text(total)}", err=True)
        elif phase == "bundled text":
            click.echo("note: the bundled texts stand in for your own: calibrate on what the model will read", err=True)
        elif phase == "resumed":
            click.echo(f"going on after layer {done} of {total}, where an earlier run stopped", err=True)
        else:
            if self._bar is None:
                self._bar = tqdm(total=total, unit="block" if phase == "images" else "sample", desc=phase, disable=None)
            self._bar.update(done - self._bar.n)
            if done == total:
                self._bar.close()
                self._bar = None
