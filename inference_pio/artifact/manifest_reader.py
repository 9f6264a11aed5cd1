"""Reading `manifest.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference_pio.artifact.jsonfile import read_json_object
from inference_pio.artifact.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Accuracy,
    CacheSpec,
    Contract,
    FileHash,
    GraphFacts,
    Manifest,
    Memory,
    ModelFacts,
    PositionSpec,
    RecipeFacts,
    Requires,
    Source,
    TableFacts,
    TensorFacts,
    VisionFacts,
    schema,
)
from inference_pio.artifact.schema import validate
from inference_pio.errors import BadInputError


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact folder; raises BadInputError when it is missing, newer or broken."""
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BadInputError(f"{folder} is not an artifact: it has no {MANIFEST_NAME}")
    values = read_json_object(path)
    version = values.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BadInputError(
            f"{path} has schema version {version}, and this installation reads up to {SCHEMA_VERSION}: "
            "upgrade inference-pio"
        )
    problem = validate(values, schema())
    if problem:
        raise BadInputError(f"{path}: {problem}")
    return _from_dict(values)


def _from_dict(values: dict[str, Any]) -> Manifest:
    source, accuracy = values["source"], values["accuracy"]
    tensors = {
        key: [[TensorFacts(**tensor) for tensor in graph[key]] for graph in values["graphs"]]
        for key in ("inputs", "outputs")
    }
    graphs = [
        GraphFacts(**{**graph, "inputs": tensors["inputs"][i], "outputs": tensors["outputs"][i]})
        for i, graph in enumerate(values["graphs"])
    ]
    return Manifest(
        producer=values["producer"],
        fingerprint=values["fingerprint"],
        model=ModelFacts(**values["model"]),
        source=Source(source["name"], _hashes(source["files"]), source.get("layers_kept")),
        target=values["target"],
        hardware=values["hardware"],
        recipe=RecipeFacts(**values["recipe"]),
        requires=Requires(**values["requires"]),
        graphs=graphs,
        cache=CacheSpec(**values["cache"]),
        contract=Contract(**values["contract"]),
        memory=Memory(**values["memory"]),
        accuracy=Accuracy(**accuracy) if accuracy else None,
        files=_hashes(values["files"]),
        positions=PositionSpec(**values["positions"]) if values.get("positions") else None,
        vision=VisionFacts(**values["vision"]) if values.get("vision") else None,
        dialect=values.get("dialect", ""),
        table=TableFacts(**values["table"]) if values.get("table") else None,
    )


def _hashes(values: dict[str, Any]) -> dict[str, FileHash]:
    return {name: FileHash(**entry) for name, entry in values.items()}
