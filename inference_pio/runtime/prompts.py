"""From what callers ask to token ids, with the images that stand in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inference_pio.errors import BadInputError
from inference_pio.runtime.chat_template import ChatTemplate
from inference_pio.runtime.inputs import checked_ids, prompt_ids
from inference_pio.runtime.tokenizer import Tokenizer
from inference_pio.runtime.vision.input import VisionInput
from inference_pio.runtime.vision.messages import Video, take_media
from inference_pio.runtime.vision.preprocess import Patches
from inference_pio.runtime.vision.prompt import PromptImages

Prepared = tuple[list[int], PromptImages | None]
"""Token ids, not yet held against vocabulary and context, and the images in them if there are any."""


def checked_images(images: Any) -> Sequence[Any]:
    """Images as callers pass them; raises BadInputError for anything but a list, such as one image alone."""
    if not isinstance(images, (list, tuple)):
        raise BadInputError(f"images must be a list of them, not {type(images).__name__}")
    return images


class PromptReader:
    """Reads the prompts of one model; `vision` is None where it takes text only. Threads may share it."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, vision: VisionInput | None, vocab_size: int) -> None:
        self._folder, self._tokenizer, self._vision = folder, tokenizer, vision
        self._vocab_size = vocab_size
        self._chat_template: ChatTemplate | None = None

    def prompt(self, prompt: str | Sequence[int], images: Sequence[Any] = ()) -> Prepared:
        """A text, tokenized as the checkpoint's tokenizer does, or ids; both may hold placeholders of `images`.

        Ids without images are taken as they are, placeholders too. Raises BadInputError as `VisionInput.prepare` does.
        """
        images = checked_images(images)
        if isinstance(prompt, str):
            return self._text(prompt, True, images, [])
        ids = prompt_ids(prompt, self._tokenizer)
        if not images:
            return ids, None
        return self._needed_vision().prepare(checked_ids(ids, self._vocab_size, len(ids)), images)

    @property
    def template(self) -> ChatTemplate:
        """The chat template, read at its first use; raises BadInputError where there is none."""
        if self._chat_template is None:
            self._chat_template = ChatTemplate.load(self._folder)
        return self._chat_template

    def conversation(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        thinking: bool | None = None,
    ) -> Prepared:
        """A conversation through the chat template, with the images and videos in its messages."""
        bare, images, videos = take_media(messages)
        if images or videos:
            self._needed_vision()
        variables = self.template.format.variables(thinking)
        text = self.template.render(bare, tools=tools, variables=variables)
        return self._text(text, False, images, videos)

    def _text(self, text: str, special_tokens: bool, images: Sequence[Any], videos: Sequence[Video]) -> Prepared:
        films: list[Patches] = []
        if videos:
            text, films = self._needed_vision().expand_videos(text, videos)
        ids = prompt_ids(self._tokenizer.encode(text, add_special_tokens=special_tokens), self._tokenizer)
        if self._vision is None and not images:
            return ids, None
        return self._needed_vision().prepare(ids, images, films)

    def _needed_vision(self) -> VisionInput:
        if self._vision is None:
            raise BadInputError("this model takes text only: leave the images out, or use one with a vision tower")
        return self._vision
