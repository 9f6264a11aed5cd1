"""The original's side of a comparison: the checkpoint through transformers, or a reference saved earlier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Protocol

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import Manifest
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.checkpoint.config import decoder_config
from inference_pio.errors import BadInputError
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.verify.examples import Example
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.passes import Passes
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import CheckpointWeights, ModelWeights
from inference_pio.verify.windows import Windows


class Original:
    """A checkpoint whose model can be run over windows, with its own weights or with those of an artifact.

    Raises BadInputError for a checkpoint that is not the artifact's, and when torch or transformers is missing.
    """

    def __init__(self, checkpoint: Checkpoint, manifest: Manifest, options: VerifyOptions) -> None:
        vocabulary = decoder_config(checkpoint.config).get("vocab_size")
        if vocabulary != manifest.model.vocab_size:
            raise BadInputError(
                f"the artifact has a vocabulary of {manifest.model.vocab_size}, the checkpoint in {checkpoint.path} "
                f"of {vocabulary}: it is not an export of this checkpoint"
            )
        self._checkpoint, self._options = checkpoint, options
        self._layers_kept = manifest.source.layers_kept
        self.weights: ModelWeights = CheckpointWeights(checkpoint)
        _require("torch", "transformers")

    @cached_property
    def _reference(self) -> ModuleType:
        """Imported at its first use, when the engine has given its memory back: torch alone takes 300 MB."""
        from inference_pio.verify import reference

        return reference

    def write_logits(self, weights: ModelWeights, windows: Windows, sink: LogitsFile, phase: str) -> None:
        """Write the logits of transformers' model with `weights` to `sink`; see `reference.write_logits`."""
        self._reference.write_logits(
            self._checkpoint.path,
            weights,
            windows.inputs,
            sink,
            layers=self._layers_kept,
            threads=self._options.threads,
            progress=lambda done, total: self._options.report(phase, done, total),
        )

    def questions(self, examples: Sequence[Example]) -> list[Any]:
        """What transformers makes of examples before the model runs; see `reference.questions`."""
        from inference_pio.verify.reference import questions

        return questions.read_questions(self._checkpoint.path, examples)

    def write_answers(self, weights: ModelWeights, questions: Sequence[Any], sink: LogitsFile, phase: str) -> None:
        """Write the logits of transformers' model with `weights` on the answers; see `reference.vision`."""
        from inference_pio.verify.reference import vision

        vision.write_answers(
            self._checkpoint.path,
            weights,
            questions,
            sink,
            layers=self._layers_kept,
            threads=self._options.threads,
            progress=lambda done, total: self._options.report(phase, done, total),
        )

    def tokenize(self, text: str) -> list[int]:
        """Token ids by the checkpoint's tokenizer in transformers; raises BadInputError for an unusable one."""
        # Names what is missing or broken, where transformers makes an empty tokenizer or raises bare exceptions.
        Tokenizer.load(self._checkpoint.path)
        tokens: list[int] = self._reference.tokenize(self._checkpoint.path, text)
        return tokens

    def facts(self) -> dict[str, Any]:
        """What a saved reference remembers of its source."""
        return {
            "parameters": self._checkpoint.parameters,
            "source": self._checkpoint.file_hashes(lambda done, total: self._options.report("hashes", done, total)),
            "layers_kept": self._layers_kept,
            "versions": self._reference.versions(),
        }


def source_matches(manifest: Manifest, hashes: Mapping[str, Any]) -> bool:
    """True when the artifact was exported from files with exactly these hashes and sizes."""
    return {name: asdict(entry) for name, entry in manifest.source.files.items()} == dict(hashes)


def check_tokens(ours: list[int], theirs: list[int], name: str) -> dict[str, Any]:
    """Compare the artifact's token ids of a text with those of `name`; the result stands in the report."""
    result: dict[str, Any] = {"checked_against": name, "tokens": len(theirs), "matches": ours == theirs}
    if ours != theirs:
        common = min(len(ours), len(theirs))
        place = next((i for i in range(common) if ours[i] != theirs[i]), common)
        result["first_difference"] = {
            "index": place,
            "original": theirs[place : place + 8],
            "artifact": ours[place : place + 8],
        }
    return result


class RoundedWeights(ModelWeights, Protocol):
    """An artifact's weights; see `simulation.ArtifactWeights`."""

    @property
    def rounds_activations(self) -> bool:
        """True when some kernel rounds activations by itself."""


def passes_for(manifest: Manifest, options: VerifyOptions) -> Passes:
    """The passes against a checkpoint; an artifact that stores all weights as they were needs no simulation."""
    formats = {*manifest.recipe.weights.values(), *manifest.recipe.overrides.values()}
    simulation = options.simulation and (formats != {"fp32"} or manifest.cache.dtype == "int8")
    return Passes(reference=True, simulation=simulation, twin=simulation and manifest.contract.rounds_activations)


def check_simulation(artifact: Artifact) -> None:
    """Raise BadInputError when the package that reads the weights is missing, or there are several decoders."""
    _require("onnx_ir")
    roles = [graph.role for graph in artifact.manifest.graphs]
    if roles.count("decoder") > 1:
        raise BadInputError(f"{artifact.path} has graphs {', '.join(roles)}: verify it without the simulation")


def rounded_weights(artifact: Artifact) -> RoundedWeights:
    """The weights of an artifact's graphs, to be read one tensor at a time."""
    from inference_pio.verify.simulation import ArtifactWeights

    graphs = (artifact.file(graph.file) for graph in artifact.manifest.graphs)
    return ArtifactWeights(*graphs, table=artifact.manifest.table)


def _require(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise BadInputError(
                f"verify needs {package}, which is not installed: pip install 'inference-pio[verify]', or give a "
                "saved reference"
            )
