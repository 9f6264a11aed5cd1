"""One layer over all samples: collect, choose, round, and run the next layer's inputs out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from inference_pio.artifact.process import return_freed_memory
from inference_pio.calibration.cache_statistics import CacheStatistics
from inference_pio.calibration.choices import TapChoice, choose, choose_step, fold
from inference_pio.calibration.experts import ExpertsResult, calibrate_experts
from inference_pio.calibration.head import Head
from inference_pio.calibration.head_products import HeadsResult, HeadStatistics, calibrate_heads, find_head_taps
from inference_pio.calibration.layer import LayerResult, emit
from inference_pio.calibration.layer_graphs import LayerGraph, cut
from inference_pio.calibration.layer_runs import Runner
from inference_pio.calibration.observers import Observer
from inference_pio.calibration.options import Progress
from inference_pio.calibration.plan import CalibrationPlan
from inference_pio.calibration.products import relative_error
from inference_pio.calibration.result import HEAD
from inference_pio.calibration.routing import Experts
from inference_pio.calibration.samples import Samples
from inference_pio.calibration.scenes import Picture, Scene
from inference_pio.calibration.simulate import rounded_layer
from inference_pio.calibration.statistics import TapStatistics
from inference_pio.calibration.taps import find_cache_taps, find_taps
from inference_pio.calibration.tower import SceneFeatures, Tower
from inference_pio.calibration.workspace import Workspace
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.graphs.formats import Activations
from inference_pio.graphs.weights import stored_rows

EXPERTS = "experts"
"""In the workspace, the hidden states that a layer's experts read."""
JUDGED_SAMPLES = 4
"""Samples on which a whole layer, rounded, is compared with itself in float32."""


class Collector:
    """Runs the layers of a checkpoint one by one over fixed samples of one length: token ids (int64) or scenes."""

    def __init__(
        self,
        plan: CalibrationPlan,
        checkpoint: Checkpoint,
        work: Workspace,
        samples: tuple[np.ndarray | Scene, ...],
        pictures: tuple[Picture, ...],
        report: Progress,
    ) -> None:
        self._plan, self._work = plan, work
        models = plan.build(checkpoint)
        model, vision = models["decoder"], plan.spec.vision
        self._head = Head.of(model) if plan.static_head else None
        self._layers = cut(model)
        self._runner = Runner(self._layers, model.opset_imports, plan.threads)
        size = plan.spec.hidden_size
        features = None if vision is None else SceneFeatures(pictures, vision.merge_size, size, work)
        self._samples = Samples(samples, size, work, features)
        self._experts = {
            layer.index: Experts.of(layer.experts) for layer in self._layers.layers if layer.experts is not None
        }
        counts = {index: experts.count for index, experts in self._experts.items()}
        steps = [len(samples) + counts.get(layer.index, 0) for layer in self._layers.layers]
        self._steps = np.concatenate([[0], np.cumsum(steps)]).tolist()
        """Steps of progress before each layer, and in all."""
        if work.finished_layers() == 0:
            if vision is not None and pictures:
                tower = Tower(models["vision"], vision, pictures, work, plan.threads)
                work.save_tower(tower.run(plan.options.observer, plan.static, report))
                del tower
                return_freed_memory()
            self._samples.write_embeddings(stored_rows(self._layers.table))

    def calibrate_layer(self, index: int, report: Progress) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and facts of a layer; afterwards the hidden states for the next one are on disk.

        Raises BadInputError that names the layer when activations are not finite.
        """
        layer = self._layers.layers[index]
        weights = {str(value.name): stored_rows(value).whole() for value in layer.weights}
        statistics, by_head, cache = self._collect(layer, weights, report)
        return_freed_memory()
        experts = self._run_experts(index, report)
        if not self._plan.recipe.calibrated:  # only the cache's steps are asked for
            return cache, {"layer": index, "output_error": None, "linears": [], "exceptions": []}
        format_of, switches = self._plan.format_of, self._plan.options.switches
        choices = choose(statistics, weights, format_of, switches)
        static = any(format_of(name).activations is Activations.STATIC for c in choices for name in c.tap.linears)
        observers = self._observe_smoothed(layer, weights, choices) if static else []
        fold(weights, choices)
        return_freed_memory()
        if static:
            choices = self._static_steps(weights, statistics, choices, observers)
        result = emit(statistics, choices, weights, format_of, switches)
        return_freed_memory()
        heads = calibrate_heads(by_head, weights, format_of, self._plan.options.observer, switches.exceptions)
        facts = {
            "layer": index,
            "output_error": self._output_error(layer, choices, result, heads, experts),
            "linears": [*result.linears, *heads.linears, *(experts.linears if experts else ())],
            "exceptions": [*result.exceptions, *heads.exceptions],
        }
        if experts is not None:
            facts["expert_tokens"] = experts.tokens
        head = self._head_arrays() if index == self._plan.spec.layers - 1 else {}
        return {**result.arrays, **heads.arrays, **(experts.arrays if experts else {}), **cache, **head}, facts

    def _collect(
        self, layer: LayerGraph, weights: Mapping[str, np.ndarray], report: Progress
    ) -> tuple[list[TapStatistics], list[HeadStatistics], dict[str, np.ndarray]]:
        taps, cache_taps = find_taps(layer), find_cache_taps(layer)
        head_taps = find_head_taps(layer) if self._plan.static_head_products else []
        count = self._samples.count
        statistics = [TapStatistics(tap, count, self._plan.needs_gram(tap.linears)) for tap in taps]
        by_head = [HeadStatistics(tap, count) for tap in head_taps]
        cache = None if cache_taps is None else CacheStatistics(cache_taps, self._plan.spec.rope.scaling)
        wanted = [tap.value for tap in taps] + ([cache_taps.key, cache_taps.value] if cache_taps else [])
        wanted += [head_tap.tap.value for head_tap in head_taps]
        expert_input = [] if layer.experts is None else [layer.experts.inputs[0]]
        new = [value for value in expert_input if value not in wanted]
        session = self._runner.session(layer, [*wanted, *new])
        writer = self._work.write_hidden(layer.index + 1)
        expert_writer = self._work.write_hidden(EXPERTS) if expert_input else None
        for number, hidden_1SC in enumerate(self._samples.hidden(layer.index)):
            output, *found = session.run(None, self._samples.feed(self._runner, layer, number, hidden_1SC, weights))
            if not np.isfinite(output).all():
                raise BadInputError(
                    f"layer {layer.index} gives activations that are NaN or infinite in sample {number}: check the "
                    "checkpoint and the calibration text"
                )
            for stats, x_1SK in zip(statistics, found, strict=False):
                stats.update(x_1SK[0])
            for stats_by_head in by_head:
                stats_by_head.update(found[wanted.index(stats_by_head.head_tap.tap.value)][0])
            if cache is not None:
                cache.update(*(x_1SN[0] for x_1SN in found[len(taps) : len(taps) + 2]))
            writer.add(output[0])
            if expert_writer is not None:
                expert_writer.add(found[[*wanted, *new].index(expert_input[0])][0])
            report("layers", self._steps[layer.index] + number + 1, self._steps[-1])
        writer.close()
        if expert_writer is not None:
            expert_writer.close()
        return statistics, by_head, {} if cache is None else cache.arrays(layer.index)

    def _run_experts(self, index: int, report: Progress) -> ExpertsResult | None:
        """Calibrate a layer's experts and add what they give to the next layer's hidden states."""
        experts = self._experts.get(index)
        if experts is None:
            return None
        done = self._steps[index] + self._samples.count
        size = self._plan.spec.hidden_size
        with (
            self._work.hidden(EXPERTS, size) as x_TC,
            self._work.hidden(index + 1, size, writable=True) as out_TC,
        ):
            result = calibrate_experts(
                experts,
                x_TC,
                out_TC,
                min(JUDGED_SAMPLES, self._samples.count) * self._samples.length,
                self._plan.format_of if self._plan.recipe.calibrated else None,
                self._plan.options.switches,
                lambda expert: report("layers", done + expert + 1, self._steps[-1]),
            )
        self._work.drop_hidden(EXPERTS)
        return_freed_memory()
        return result

    def _observe_smoothed(
        self, layer: LayerGraph, weights: Mapping[str, np.ndarray], choices: list[TapChoice]
    ) -> list[Observer]:
        """A second pass: histograms of the activations as they are after smoothing, without exact columns."""
        observers = [Observer(f"the inputs of {c.tap.name}", c.tap.columns) for c in choices]
        session = self._runner.session(layer, [choice.tap.value for choice in choices])
        for number, hidden_1SC in enumerate(self._samples.hidden(layer.index)):
            _, *found = session.run(None, self._samples.feed(self._runner, layer, number, hidden_1SC, weights))
            for choice, observer, x_1SK in zip(choices, observers, found, strict=True):
                inner_SK = x_1SK[0] / choice.smoothing.factors
                inner_SK[:, list(choice.exact)] = 0
                observer.update(inner_SK)
        return observers

    def _static_steps(
        self,
        tensors: Mapping[str, np.ndarray],
        statistics: list[TapStatistics],
        choices: list[TapChoice],
        observers: list[Observer],
    ) -> list[TapChoice]:
        """The choices with static steps, for folded tensors."""
        kind, chosen = self._plan.options.observer, []
        for stats, choice, observer in zip(statistics, choices, observers, strict=True):
            pairs = [(tensors[name], self._plan.format_of(name)) for name in choice.tap.linears]
            chosen.append(choose_step(choice, observer, kind, stats.rows(), pairs))
        return chosen

    def _head_arrays(self) -> dict[str, np.ndarray]:
        """The step of a static head's input, from the hidden states behind the last layer."""
        if self._head is None:
            return {}
        hidden, kind = self._samples.hidden(self._plan.spec.layers), self._plan.options.observer
        return {f"{HEAD}.activation_scale": np.array([self._head.step(hidden, self._samples.count, kind)], np.float32)}

    def _output_error(
        self,
        layer: LayerGraph,
        choices: list[TapChoice],
        result: LayerResult,
        heads: HeadsResult,
        experts: ExpertsResult | None,
    ) -> float:
        """Squared error of the layer's contribution to the residual stream, as a share of that contribution.

        Rounded experts are judged on the inputs that they have without rounding before them.
        """
        session = rounded_layer(self._runner, layer, choices, result, heads.steps)
        weights = {**result.weights, **heads.weights}
        errors, length = [], self._samples.length
        pairs = zip(
            range(JUDGED_SAMPLES),
            self._samples.hidden(layer.index),
            self._samples.hidden(layer.index + 1),
            strict=False,
        )
        for number, hidden_1SC, exact_1SC in pairs:
            added = None if experts is None else experts.found[None, number * length : (number + 1) * length]
            (found,) = session.run(None, self._samples.feed(self._runner, layer, number, hidden_1SC, weights, added))
            errors.append(relative_error(exact_1SC - hidden_1SC, found - hidden_1SC))
        return float(np.mean(errors))
