"""The contract between export and runtime: an immutable, hashed folder. Standard library only."""

from inference_pio.artifact.bundle import Artifact
from inference_pio.artifact.manifest import Manifest

__all__ = ["Artifact", "Manifest"]
