"""The original's side of a comparison: the checkpoint through transformers, or a reference saved earlier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import ModuleType
from typing import Any, Protocol

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import Manifest
from inference_pio.checkpoint.checkpoint import Checkpoint
from inference_pio.errors import BadInputError
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.verify.options import VerifyOptions
from inference_pio.verify.scratch import LogitsFile
from inference_pio.verify.weights import CheckpointWeights, ModelWeights
from inference_pio.verify.windows import Windows


class Original:
    """A checkpoint whose model can be run over windows, with its own weights or with those of an artifact."""

    def __init__(self, checkpoint: Checkpoint, manifest: Manifest, options: VerifyOptions) -> None:
        vocabulary = checkpoint.config.get("vocab_size")
        if vocabulary != manifest.model.vocab_size:
            raise BadInputError(
                f"the artifact has a vocabulary of {manifest.model.vocab_size}, the checkpoint in {checkpoint.path} "
                f"of {vocabulary}: it is not an export of this checkpoint"
            )
        self._checkpoint, self._options = checkpoint, options
        self._layers_kept = manifest.source.layers_kept
        self._reference = _import_reference()
        self.weights: ModelWeights = CheckpointWeights(checkpoint)

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


def rounded_weights(artifact: Artifact) -> RoundedWeights | None:
    """The weights of an artifact, or None when they are stored losslessly and there is nothing to simulate.

    Raises BadInputError when the package that reads them is missing, or for an artifact of several graphs.
    """
    try:
        from inference_pio.verify.simulation import ArtifactWeights
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"the simulation needs {error.name}, which is not installed: pip install 'inference-pio[verify]'"
        ) from error
    graphs = artifact.manifest.graphs
    if len(graphs) != 1:
        raise BadInputError(f"{artifact.path} has {len(graphs)} graphs: verify it without the simulation")
    weights = ArtifactWeights(artifact.file(graphs[0].file))
    return None if weights.lossless else weights


def _import_reference() -> ModuleType:
    try:
        from inference_pio.verify import reference
    except ModuleNotFoundError as error:
        raise BadInputError(
            f"verify needs {error.name}, which is not installed: pip install 'inference-pio[verify]', or give a "
            "saved reference"
        ) from error
    return reference
