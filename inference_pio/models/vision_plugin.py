"""The plugin of a model that sees images as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.models.plugin import ArtifactPlugin


class VisionPlugin(ArtifactPlugin):
    """An `ArtifactPlugin` whose `infer` also takes a text with an image."""

    def infer(self, data: Any) -> str:
        """The answer to a text, or to `{"text": ..., "image": ...}`: an image as `Engine.chat` takes it, a path or an
        array. Raises as `generate_text` does.
        """
        if not isinstance(data, Mapping):
            return super().infer(data)
        unknown = [str(key) for key in data if key not in ("text", "image")]
        if unknown or "text" not in data:
            raise BadInputError(
                f'infer of {self.card.name} takes {{"text": ..., "image": ...}}, '
                + (f"without {', '.join(unknown)}" if unknown else "and there is no text")
            )
        text, image = self._text(data["text"], "infer"), data.get("image")
        if not text:
            return ""
        if image is None:
            return super().infer(text)
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        return str(self.chat_completion([{"role": "user", "content": content}]))
