"""The simulation of an artifact and its twin, held against the original and the artifact."""

from __future__ import annotations

from typing import Protocol

from inference_pio.verify.conclusion import Simulated
from inference_pio.verify.gates import Gate
from inference_pio.verify.metrics import CompareRows, PositionTable, ReadLogits, against_logits, compare
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.original import RoundedWeights
from inference_pio.verify.passes import twin_positions
from inference_pio.verify.scratch import LogitsFile, Scratch
from inference_pio.verify.weights import ModelWeights, TwinWeights
from inference_pio.verify.windows import Windows


class WriteLogits(Protocol):
    """Writes the logits of the original's layers with given weights."""

    def __call__(self, weights: ModelWeights, windows: Windows, sink: LogitsFile, phase: str) -> None:
        """For the positions of `windows`, in their order."""


def simulate(
    write: WriteLogits,
    rounded: RoundedWeights,
    read_reference: ReadLogits,
    candidate: LogitsFile,
    windows: Windows,
    gate: Gate,
    scratch: Scratch,
    options: VerifyOptions,
) -> Simulated:
    """The original's layers with the artifact's weights, held against the original, the artifact and a twin."""
    simulation = scratch.open(windows.positions)
    write(rounded, windows, simulation, "simulation")
    noise = compare_windows(against_logits(read_reference), simulation, windows, options)
    agreement = compare_windows(against_logits(simulation.read), candidate, windows, options)
    apart = None
    if rounded.rounds_activations:
        some = windows.first(twin_positions(windows.positions, windows.window))
        twin = scratch.open(some.positions)
        write(TwinWeights(rounded, gate.excess.disturbance), some, twin, "twin")
        apart = compare_windows(against_logits(simulation.read), twin, some, options)
    return Simulated.judge(noise, agreement, apart, gate.clear_gap)


def compare_windows(
    original: CompareRows, candidate: LogitsFile, windows: Windows, options: VerifyOptions
) -> PositionTable:
    """Every position of the windows, with progress."""
    return compare(
        original,
        candidate.read,
        windows.targets,
        candidate.vocabulary,
        lambda done, total: options.report("comparison", done, total),
    )
