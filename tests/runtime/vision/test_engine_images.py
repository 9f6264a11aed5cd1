"""The engine answers questions about images as transformers does, and keeps what it computed of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from inference_pio.cli import main
from inference_pio.errors import BadInputError, ResourceLimitError
from inference_pio.runtime import Engine, EngineConfig, SamplingParams
from inference_pio.runtime.conversation import Conversation
from inference_pio.runtime.generation import CHUNK_TOKENS
from inference_pio.runtime.vision import encoder

sys.path.insert(0, str(Path(__file__).parents[2]))
from vision_cases import END, IMAGE, START, VIDEO, vision_original

GREEDY = SamplingParams(max_new_tokens=24, temperature=0, ignore_eos=True)


def picture(seed: int, height: int = 90, width: int = 120) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def question(*images: object, text: str = "what is it?") -> list[dict[str, object]]:
    parts: list[dict[str, object]] = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


@pytest.fixture(scope="module")
def engine(vision_artifact) -> Iterator[Engine]:
    with Engine.open(vision_artifact("fp32")) as opened:
        yield opened


@pytest.fixture(scope="module")
def original(vision_checkpoint):
    return vision_original(vision_checkpoint), Qwen2VLImageProcessorPil.from_pretrained(vision_checkpoint)


def reference_tokens(original, ids: list[int], pictures: list[np.ndarray], count: int) -> list[int]:
    """Greedy tokens of transformers for ids with one placeholder per image."""
    model, processor = original
    prepared = processor([Image.fromarray(each) for each in pictures], return_tensors="pt")
    grids = iter(prepared["image_grid_thw"])
    full = [t for token in ids for t in ([token] * (int(next(grids).prod()) // 4) if token == IMAGE else [token])]
    tokens = torch.tensor([full])
    model.model.rope_deltas = None
    found = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        mm_token_type_ids=(tokens == IMAGE).int(),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        **prepared,
    )
    return found[0, len(full) :].tolist()


@pytest.mark.parametrize("sizes", [[(90, 120)], [(60, 300), (200, 70)], [(250, 250)]], ids=["one", "two", "large"])
def test_answers_are_those_of_transformers(engine, original, sizes):
    pictures = [picture(seed, *size) for seed, size in enumerate(sizes)]
    messages = question(*pictures)
    text = "".join("<|vision_start|><|image_pad|><|vision_end|>" for _ in sizes)
    ids = engine.tokenizer.encode(f"<|im_start|>user\n{text}what is it?<|im_end|>\n<|im_start|>assistant\n")
    expected = reference_tokens(original, ids, pictures, GREEDY.max_new_tokens)
    assert list(engine.chat(messages, GREEDY).token_ids) == expected
    assert list(engine.generate(ids, GREEDY, images=pictures).token_ids) == expected


def test_every_kind_of_source_means_the_same(engine, tmp_path):
    values = picture(3)
    Image.fromarray(values).save(tmp_path / "image.png")
    sources = [values, values.transpose(2, 0, 1), Image.fromarray(values), tmp_path / "image.png"]
    answers = [engine.chat(question(source), GREEDY).token_ids for source in (*sources, str(tmp_path / "image.png"))]
    assert len(set(answers)) == 1


def test_features_are_computed_once(vision_artifact):
    with Engine.open(vision_artifact("fp32"), EngineConfig(prefix_cache_bytes=0)) as engine:
        one, other = question(picture(0)), question(picture(1))
        first = engine.chat(one, GREEDY)
        assert engine.vision.encoder.runs == 1
        assert engine.chat(one, GREEDY).token_ids == first.token_ids
        assert engine.vision.encoder.runs == 1
        assert engine.chat(other, GREEDY).token_ids != first.token_ids
        assert engine.vision.encoder.runs == 2
        assert engine.chat(one, GREEDY).token_ids == first.token_ids


def test_a_small_feature_cache_forgets_and_stays_right(vision_artifact):
    with Engine.open(vision_artifact("fp32")) as engine:
        engine.chat(question(picture(0)), GREEDY)
        size = engine.vision.encoder.cache.held_bytes
    config = EngineConfig(prefix_cache_bytes=0, image_cache_bytes=size)
    with Engine.open(vision_artifact("fp32"), config) as engine:
        answers = [engine.chat(question(picture(seed)), GREEDY).token_ids for seed in (0, 1, 0)]
        assert engine.vision.encoder.runs == 3 and engine.vision.encoder.cache.held_bytes == size
        assert answers[0] == answers[2] != answers[1]
    with Engine.open(vision_artifact("fp32"), EngineConfig(prefix_cache_bytes=0, image_cache_bytes=0)) as engine:
        assert [engine.chat(question(picture(seed)), GREEDY).token_ids for seed in (0, 0)] == [answers[0]] * 2
        assert engine.vision.encoder.runs == 2


def test_activations_of_the_tower_count_before_an_image_runs(vision_artifact):
    with Engine.open(vision_artifact("fp32")) as engine:
        engine.chat(question(picture(0)), GREEDY)
        taken, memory = engine._opened.budget.taken, engine.manifest.memory
        patches = 4 * engine.chat_tokens(question(picture(0, 250, 250))).count(IMAGE)
    assert memory.image_bytes_per_patch == 4 * (11 * 64 + 4 * 144 + 2 * 4 * 96 // 4)
    needed = patches * memory.image_bytes_per_patch
    for room, fits in ((needed + (1 << 20), True), (needed - 1, False)):
        with Engine.open(vision_artifact("fp32"), EngineConfig(max_memory=taken + room)) as engine:
            before = engine.chat(question(picture(0, 64, 64)), GREEDY)
            if fits:
                engine.chat(question(picture(0, 250, 250)), GREEDY)
                continue
            with pytest.raises(ResourceLimitError, match=rf"an image of {patches} patches .*needs 7 MB .* at least \d"):
                engine.chat(question(picture(0, 250, 250)), GREEDY)
            assert engine.vision.encoder.runs == 1
            assert engine.chat(question(picture(0, 64, 64)), GREEDY).token_ids == before.token_ids


def test_a_conversation_prepares_its_images_once(vision_artifact, tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    with Engine.open(vision_artifact("fp32")) as engine:
        conversation = Conversation(engine, params=GREEDY, answer_tokens=24)
        parts = [{"type": "image", "image": str(tmp_path / "a.png")}, {"type": "image", "image": picture(1)}]
        film = {"type": "video", "video": [picture(2), picture(3)], "fps": 2}
        for content in ([*parts, film, {"type": "text", "text": "what are they?"}], "and now?", "and now?"):
            conversation.ask(content)
        prepared = engine.vision.prepared
        assert prepared.runs == 3
        Image.fromarray(picture(4)).save(tmp_path / "a.png")  # another picture under the same name
        conversation.ask("and now?")
        assert prepared.runs == 4
        again = prepared.image(str(tmp_path / "a.png"), "image 0")
        assert prepared.runs == 4 and again.values.shape[0] == 1 and prepared.runs == 5  # once more for the tower
        assert len(prepared._waiting) == 0
        Image.fromarray(picture(5)).save(tmp_path / "a.png")
        with pytest.raises(BadInputError, match="image 0 changed while it was read"):
            _ = again.values
        for broken in ("no.png", 5, [], np.zeros((2, 2))):
            with pytest.raises(BadInputError, match="image 0"):
                prepared.image(broken, "image 0")
        with pytest.raises(BadInputError, match="the video must be a list"):
            prepared.video("abc", "the video")


def test_text_never_loads_the_vision_graph(vision_artifact, monkeypatch):
    with Engine.open(vision_artifact("fp32")) as engine:
        engine.generate("def read(", GREEDY)
        engine.chat([{"role": "user", "content": [{"type": "text", "text": "hello"}]}], GREEDY)
        engine.logits([1, 2, 3])
        assert not engine.vision.encoder.loaded
        engine.chat(question(picture(0)), GREEDY)
        assert engine.vision.encoder.loaded


def long_question(seed: int) -> list[dict[str, object]]:
    """More than a block of text, then an image over three blocks."""
    image = {"type": "image", "image": picture(seed, 250, 250)}
    return [{"role": "user", "content": [{"type": "text", "text": "word " * 80}, image]}]


LONG = long_question(0)


def test_prefix_cache_changes_nothing(vision_artifact):
    with Engine.open(vision_artifact("int8"), EngineConfig(prefix_cache_bytes=0)) as engine:
        cold = engine.chat(LONG, GREEDY)
    with Engine.open(vision_artifact("int8")) as engine:
        first, warm = engine.chat(LONG, GREEDY), engine.chat(LONG, GREEDY)
        engine.prefix_cache.check_integrity()
        assert first.usage.cached_tokens == 0 and first.usage.prompt_tokens > 3 * CHUNK_TOKENS
        assert warm.usage.cached_tokens == (warm.usage.prompt_tokens - 1) // CHUNK_TOKENS * CHUNK_TOKENS
        assert cold.token_ids == first.token_ids == warm.token_ids


def test_prefix_cache_tells_images_apart(vision_artifact):
    """The same tokens with another image of the same size must not find its keys and values."""
    other = long_question(1)
    with Engine.open(vision_artifact("fp32"), EngineConfig(prefix_cache_bytes=0)) as engine:
        expected = engine.chat(LONG, GREEDY).token_ids, engine.chat(other, GREEDY).token_ids
    assert expected[0] != expected[1]
    with Engine.open(vision_artifact("fp32")) as engine:
        assert engine.chat(LONG, GREEDY).token_ids == expected[0]
        found = engine.chat(other, GREEDY)
        assert found.token_ids == expected[1]
        assert found.usage.cached_tokens == CHUNK_TOKENS  # the text before the image
        turn = [*LONG, {"role": "assistant", "content": "a shape"}, {"role": "user", "content": "sure?"}]
        assert engine.chat(turn, GREEDY).usage.cached_tokens >= 3 * CHUNK_TOKENS


def test_an_image_in_cached_blocks_is_not_encoded_again(vision_artifact):
    config, messages = EngineConfig(image_cache_bytes=0), question(picture(0, 250, 250), text="word " * 80)
    with Engine.open(vision_artifact("fp32"), config) as engine:
        engine.chat(messages, GREEDY)
        assert engine.vision.encoder.runs == 1  # although its tokens are spread over three chunks
        engine.chat(messages, GREEDY)
        assert engine.vision.encoder.runs == 1


def test_text_after_an_image_stands_where_it_belongs(engine):
    """A sequence that held an image is used again: its positions must not leak into the next request."""
    ids = list(range(5, 60))
    before = engine.logits(ids)
    engine.chat(question(picture(0)), GREEDY)
    assert np.array_equal(engine.logits(ids), before)


def test_videos(engine, original):
    """Frames pair up, and each pair has its time in front, as the model was trained."""
    frames = [picture(seed, 64, 96) for seed in range(5)]
    messages = [
        {"role": "user", "content": [{"type": "video", "video": frames, "fps": 2}, {"type": "text", "text": "?"}]}
    ]
    ids, placed = engine._prompts.conversation(messages)
    text = engine.tokenizer.decode([i for i in ids if i != VIDEO], skip_special_tokens=False)
    marks = "<|vision_start|><|vision_end|>"
    assert f"<0.2 seconds>{marks}<1.2 seconds>{marks}<2.0 seconds>{marks}?" in text
    assert [ids.count(token) for token in (START, END)] == [3, 3]
    film = placed.frames[0].patches
    tokens = torch.tensor([ids])
    model = original[0]
    model.model.rope_deltas = None
    found = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        mm_token_type_ids=2 * (tokens == VIDEO).int(),
        pixel_values_videos=torch.tensor(film.values.reshape(-1, film.values.shape[-1])),
        video_grid_thw=torch.tensor([[film.grid.frames, film.grid.height, film.grid.width]]),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=None,
    )[0, len(ids) :].tolist()
    assert list(engine.chat(messages, GREEDY).token_ids) == found


def test_fewer_tokens_per_image(vision_artifact):
    with Engine.open(vision_artifact("fp32"), EngineConfig(max_image_tokens=80)) as engine:
        few = engine.chat(question(picture(0, 250, 250)), GREEDY).usage.prompt_tokens
    with Engine.open(vision_artifact("fp32")) as engine:
        many = engine.chat(question(picture(0, 250, 250)), GREEDY).usage.prompt_tokens
    assert few < 110 and many > 200
    with pytest.raises(BadInputError, match="at least 16 tokens"):
        Engine.open(vision_artifact("fp32"), EngineConfig(max_image_tokens=5))


def test_logits_with_images(engine):
    ids = [4, START, IMAGE, END, 5]
    logits = engine.logits(ids, images=[picture(0)])
    answer = engine.generate(ids, GREEDY, images=[picture(0)])
    assert logits.shape == (answer.usage.prompt_tokens, 2056)
    assert logits[-1].argmax() == answer.token_ids[0]


def test_ids_without_images_are_taken_as_they_are(engine, original):
    """Random ids, as a benchmark sends them, may hit a placeholder's; transformers takes them for text too."""
    ids = [3, IMAGE, 4, VIDEO, 5]
    with torch.no_grad():
        original[0].model.rope_deltas = None
        expected = original[0](input_ids=torch.tensor([ids]), use_cache=False).logits[0].numpy()
    assert np.abs(engine.logits(ids) - expected).max() < 1e-4


def test_mapped_weights_give_the_same_answers(vision_artifact, tmp_path):
    with Engine.open(vision_artifact("int8"), EngineConfig(map_weights="off", cache_dir=tmp_path)) as loaded:
        expected = loaded.chat(question(picture(0)), GREEDY).token_ids
    with Engine.open(vision_artifact("int8"), EngineConfig(map_weights="on", cache_dir=tmp_path)) as mapped:
        assert mapped.chat(question(picture(0)), GREEDY).token_ids == expected


def test_threads_share_it(engine):
    messages = [question(picture(seed)) for seed in range(4)]
    expected = [engine.chat(each, GREEDY).token_ids for each in messages]
    found: dict[int, tuple[int, ...]] = {}
    threads = [
        threading.Thread(target=lambda i=index: found.__setitem__(i, engine.chat(messages[i], GREEDY).token_ids))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(4)] == expected


def test_memory_for_the_vision_tower(vision_artifact):
    with Engine.open(vision_artifact("fp32")) as engine:
        used = engine._opened.budget.taken
    with (
        Engine.open(vision_artifact("fp32"), EngineConfig(max_memory=used + 2_000_000)) as engine,
        pytest.raises(ResourceLimitError, match="vision tower"),
    ):
        engine.generate([1], SamplingParams(max_new_tokens=1))
        engine.chat(question(picture(0)), GREEDY)


def test_a_vision_tower_that_cannot_be_loaded_takes_nothing(vision_artifact, monkeypatch):
    def refused(*_: object) -> None:
        raise MemoryError

    with Engine.open(vision_artifact("fp32")) as engine:
        used = engine._opened.budget.taken
        monkeypatch.setattr(encoder, "open_session", refused)
        with pytest.raises(MemoryError):
            engine.chat(question(picture(0)), GREEDY)
        assert engine._opened.budget.taken == used


def test_command_line(capsys, vision_artifact, tmp_path, engine):
    Image.fromarray(picture(0)).save(tmp_path / "one.png")
    Image.fromarray(picture(1)).save(tmp_path / "two.png")
    arguments = [
        "generate",
        str(vision_artifact("fp32")),
        "-p",
        "what is it?",
        "--max-new-tokens",
        "8",
        "--temperature",
        "0",
    ]
    images = [f"--image={tmp_path / name}" for name in ("one.png", "two.png")]
    assert main.run([*arguments, "--ignore-eos", *images]) == 0
    shown = capsys.readouterr().out
    params = SamplingParams(max_new_tokens=8, temperature=0, ignore_eos=True)
    expected = engine.chat(question(tmp_path / "one.png", tmp_path / "two.png"), params)
    assert shown == expected.text + "\n"
    assert main.run([*arguments, *images, "-n", "2", "--json", "-"]) == 2
    assert "-n 1" in capsys.readouterr().err
