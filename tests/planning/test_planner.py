"""Plans against figures worked out elsewhere, and against formulas written out here."""

import json
import random

import pytest
from random_shapes import published_config

from inference_pio.build.options import DEFAULT_IMAGE_TOKENS
from inference_pio.calibration.recipes import find_recipe
from inference_pio.errors import BadInputError
from inference_pio.graphs.hardware import profiles
from inference_pio.planning.plan import PlanOptions, Smaller
from inference_pio.planning.planner import make_plans
from inference_pio.planning.rules import CACHE_ITEM_BYTES, IMAGE_PATCHES

MIB = 2**20
HOST_BANDWIDTH, HOST_INT8, DISK = 42.7e9, 1.075e12, 3e9
ROOFLINE = {
    # card: decode at 0 and 2048 tokens of fp16 cache, products of a prompt in fp32 and in int8; tokens/s
    "gtx-1060-6gb": (47.8, 44.4, 602, 2408),
    "gtx-1070": (63.7, 59.3, 889, 3558),
    "gtx-1080": (79.6, 74.1, 1221, 4884),
}
"""Qwen3-4B in int8 on Pascal, from the number of its weights and the cards' data sheets."""
MODELS = ["qwen3-4b", "qwen3-coder-30b", "qwen3-vl-2b", "glm-4.7-flash"]


def plan_of(config, **options):
    if isinstance(config, str):
        config = published_config(config)
    (plan,) = make_plans(config, "models/some", PlanOptions(**options))
    return plan


def place_bytes(plan, place, part):
    return sum(entry["bytes"] for entry in plan.places if (entry["place"], entry["part"]) == (place, part))


def decode_of(plan):
    return {entry["context"]: entry["tokens_per_s"] for entry in plan.speeds.decode}


def prefill_of(plan):
    return {entry["prompt_tokens"]: entry["tokens_per_s"] for entry in plan.speeds.prefill}


@pytest.fixture
def card_file(tmp_path):
    """Writes a card and returns its path."""

    def write(**values):
        path = tmp_path / "card.json"
        path.write_text(json.dumps(values))
        return str(path)

    return write


@pytest.mark.parametrize("card", ROOFLINE)
def test_the_roofline_of_pascal(card):
    empty, filled, floats, integers = ROOFLINE[card]
    plan = plan_of("qwen3-4b", hardware=card, kv_cache="fp16")
    assert (plan.fits, plan.target, plan.dialect, plan.precision) == (True, "tensorrt", "trt85", "w8a8-static")
    assert decode_of(plan)[0] == pytest.approx(empty, rel=0.02)
    assert decode_of(plan)[2048] == pytest.approx(filled, rel=0.02)
    assert plan.speeds.prefill_products == pytest.approx(integers, rel=0.02)
    weight_only = plan_of("qwen3-4b", hardware=card, target="ort-cuda", precision="int4")
    assert weight_only.speeds.prefill_products == pytest.approx(floats, rel=0.02)


def test_the_memory_of_a_6_gb_card():
    """6144 MiB less 250 for CUDA, 300 for activations, 200 for the desktop and 3834 of weights."""
    plan = plan_of("qwen3-4b", hardware="gtx-1060-6gb")
    assert plan.kv_tokens["fp16"] == pytest.approx(1560 * MIB / (144 * 1024), rel=0.02)
    assert plan.kv_tokens["fp32"] == plan.kv_tokens["fp16"] // 2
    assert plan.kv_bytes_per_token == 288 * 1024
    assert plan.context_length == plan.kv_tokens["fp32"] // 256 * 256
    reserved = {(entry["for"], entry["place"]): entry["bytes"] // MIB for entry in plan.reserved}
    assert reserved[("CUDA", "GPU")] == 250 and reserved[("desktop", "GPU")] == 200
    assert place_bytes(plan, "RAM", "token table") > 0 and place_bytes(plan, "GPU", "token table") == 0


def random_dense(draw):
    """A config.json of a dense Qwen3 with sizes that blocks of 128 divide."""
    groups = draw.choice([1, 2, 4, 8])
    return {
        "model_type": "qwen3",
        "vocab_size": draw.randrange(1000, 90_000),
        "hidden_size": 128 * draw.randrange(2, 24),
        "intermediate_size": 128 * draw.randrange(4, 60),
        "num_hidden_layers": draw.randrange(1, 40),
        "num_attention_heads": groups * draw.choice([1, 2, 4]),
        "num_key_value_heads": groups,
        "head_dim": draw.choice([64, 128]),
        "hidden_act": "silu",
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": draw.random() < 0.5,
    }


def random_card(draw):
    return {
        "profile": "sm61",
        "name": "invented",
        "memory_gib": draw.uniform(20, 60),
        "bandwidth_gb_s": draw.uniform(20, 900),
        "fp32_tflops": draw.uniform(0.5, 20),
        "int8_tops": draw.uniform(2, 90),
        "display": draw.random() < 0.5,
    }


@pytest.mark.parametrize("seed", range(6))
def test_an_invented_card_and_a_random_shape(card_file, seed):
    draw = random.Random(seed)
    config, card = random_dense(draw), random_card(draw)
    plan = plan_of(config, hardware=card_file(**card), kv_cache="fp16", context_length=4096)
    vocabulary, channels, inner = config["vocab_size"], config["hidden_size"], config["intermediate_size"]
    layers, heads, groups = (config[f"num_{name}"] for name in ("hidden_layers", "attention_heads", "key_value_heads"))
    size = config["head_dim"]
    rows = (heads + 2 * groups) * size + channels + 2 * inner + channels
    weights = 2 * heads * size * channels + 2 * groups * size * channels + 3 * channels * inner
    norms = layers * (2 * channels + 2 * size) + channels
    by_rows = find_recipe("w8a8-static", "tensorrt/trt85").edges.integer_product
    edge = channels + 4 if by_rows else channels * (1 + 4 / 128)
    on_gpu = layers * (weights + 4 * rows) + 4 * norms + vocabulary * edge
    token = 2 * layers * groups * size * 2
    free = int(card["memory_gib"] * 2**30) - (550 + 200 * card["display"]) * MIB - on_gpu
    assert plan.kv_tokens["fp16"] == int(free // token) and plan.fits
    bandwidth, floats, integers = (card[key] for key in ("bandwidth_gb_s", "fp32_tflops", "int8_tops"))
    row = edge / HOST_BANDWIDTH
    for context in (0, 2048, 4096):
        read = (on_gpu + token * context) / (bandwidth * 1e9)
        attention = 4 * heads * size * context * layers
        products = 2 * layers * weights / (integers * 1e12)
        head = 2 * vocabulary * channels / ((integers if by_rows else floats) * 1e12)
        seconds = max(read, products + head + attention / (floats * 1e12)) + row
        assert decode_of(plan)[context] == pytest.approx(1 / seconds, rel=1e-9)
    for prompt in (512, 2048):
        read = (on_gpu + token * prompt) / (bandwidth * 1e9)
        pairs = prompt * (prompt + 1) // 2
        attention = 4 * heads * size * pairs * layers / (floats * 1e12)
        seconds = max(read, products * prompt + head + attention) + row * prompt
        assert prefill_of(plan)[prompt] == pytest.approx(prompt / seconds, rel=1e-9)
    assert plan.speeds.prefill_products == pytest.approx(1 / products, rel=1e-9)


def test_experts_on_the_host_and_its_drive():
    """Of Qwen3-Coder's experts 8 of 128 are read per token, from memory and from the drive alike."""
    plan = plan_of("qwen3-coder-30b", hardware="gtx-1060-6gb", ram=16_000_000_000, precision="w8a8-static")
    experts = 48 * 128 * 3 * 768 * 2048 * (1 + 4 / 128)
    table = place_bytes(plan, "RAM", "token table")
    in_memory = 16e9 - (1536 + 300) * MIB - table
    assert place_bytes(plan, "RAM", "experts") == pytest.approx(in_memory, abs=1)
    assert place_bytes(plan, "NVMe", "experts") == pytest.approx(experts - in_memory, abs=1)
    assert place_bytes(plan, "GPU", "experts") == 0
    active = experts * 8 / 128
    host = max(active / HOST_BANDWIDTH, active * (1 - in_memory / experts) / DISK)
    host = max(host, 2 * 48 * 8 * 3 * 768 * 2048 / HOST_INT8) + table / 151_936 / HOST_BANDWIDTH
    gpu = (place_bytes(plan, "GPU", "layers") + place_bytes(plan, "GPU", "head")) / 192.2e9
    assert decode_of(plan)[0] == pytest.approx(1 / (gpu + host), rel=1e-6)
    assert any("the CPU computes the experts" in note for note in plan.notes)
    touched = experts * (1 - (1 - 8 / 128) ** 512)
    assert prefill_of(plan)[512] < 512 / (touched * (1 - in_memory / experts) / DISK)


def test_experts_on_a_large_gpu():
    plan = plan_of("qwen3-coder-30b", hardware="rtx-3090", precision="int4")
    assert plan.target == "ort-cuda" and place_bytes(plan, "GPU", "experts") > 14e9 and plan.kv_cache == "fp16"
    hybrid = plan_of("qwen3-coder-30b", hardware="rtx-3060")
    assert hybrid.target == "tensorrt" and place_bytes(hybrid, "GPU", "experts") == 0


def test_no_operator_for_experts():
    plan = plan_of("glm-4.7-flash", hardware="p40", target="ort-cuda")
    assert not plan.fits and plan.reason == "ort-cuda/sm61 has no operator for experts stored as integers"
    floats = plan_of(published_config("glm-4.7-flash", 3), hardware="p40", target="ort-cuda", precision="fp32")
    assert floats.fits and place_bytes(floats, "GPU", "experts") > 4e9


def test_latents_are_cached_as_576_numbers():
    plan = plan_of("glm-4.7-flash", hardware="gtx-1060-6gb")
    assert plan.kv_bytes_per_token == 47 * 576 * 4
    assert "int8" not in plan.kv_tokens


@pytest.mark.parametrize(
    ("hardware", "precision", "caches", "rate"),
    [
        ("rtx-4090", "fp32", ["fp32"], 82.6),
        ("rtx-4090", "fp16", ["fp16"], 330.3),
        ("rtx-4090", "bf16", ["bf16"], 330.3),
        ("gtx-1080-ti", "int4", ["fp32"], 11.34),
        ("i5-10210u", "int4", ["fp32", "int8"], 1.075),
        ("i5-10210u", "fp16", ["fp32", "int8"], 0.538),
    ],
)
def test_cache_and_rate_are_those_of_what_a_recipe_computes_in(hardware, precision, caches, rate):
    target = "ort-cpu" if hardware.startswith("i5") else "ort-cuda"
    options = {"hardware": hardware, "target": target, "precision": precision, "context_length": 1024}
    plan = plan_of(published_config("qwen3-4b", 2), **options)
    assert plan.kv_cache == caches[0] and list(plan.kv_tokens) == caches and plan.notes == []
    assert plan.kv_bytes_per_token == 2 * 2 * 8 * 128 * CACHE_ITEM_BYTES[caches[0]]
    products = 2 * 2 * (2560 * (2 * 4096 + 2 * 1024) + 3 * 2560 * 9728)
    assert plan.speeds.prefill_products == pytest.approx(rate * 1e12 / products, rel=1e-6)
    for kind in {"fp32", "fp16", "bf16", "int8"} - set(caches):
        with pytest.raises(BadInputError, match=f"--kv-cache {kind} is not available on {target}"):
            plan_of("qwen3-4b", **options, kv_cache=kind)


def test_the_cache_of_blocks_for_new_tensorrt_is_that_of_an_export():
    plan = plan_of("qwen3-4b", hardware="b200", precision="fp32", ram=64_000_000_000)
    assert plan.target == "tensorrt" and plan.kv_cache == "fp32" and plan.kv_bytes_per_token == 288 * 1024
    half = plan_of("qwen3-4b", hardware="b200", precision="fp16", ram=64_000_000_000)
    assert half.kv_cache == "fp16" and half.kv_bytes_per_token == 144 * 1024 and half.kv_exported == ["fp16"]
    eight = plan_of("qwen3-4b", hardware="b200", precision="fp16", ram=64_000_000_000, kv_cache="int8")
    assert eight.notes == ["this version cannot export it yet: its caches are fp16"]


def test_a_vision_tower_has_its_place_and_time():
    plan = plan_of("qwen3-vl-2b", hardware="gtx-1080-ti", precision="fp32")
    assert place_bytes(plan, "GPU", "vision tower") > 1.6e9
    operations = 2 * 1024 * 24 * 12 * 1024**2 + 4 * 1024 * 1024**2 * 24
    assert plan.speeds.image_seconds == pytest.approx(operations / 11.34e12, rel=0.15)
    assert plan_of("qwen3-4b", hardware="gtx-1060-6gb").speeds.image_seconds is None
    activations = next(entry["bytes"] for entry in plan.reserved if entry["for"] == "activations")
    assert activations == 300 * MIB + 4 * 1024 * (16 * 1024 + 4 * 1024 + 4096)
    merge = published_config("qwen3-vl-2b")["vision_config"]["spatial_merge_size"]
    assert DEFAULT_IMAGE_TOKENS * merge**2 == IMAGE_PATCHES


@pytest.mark.parametrize(
    ("model", "hardware", "target", "noted"),
    [
        ("qwen3-vl-2b", "gtx-1080-ti", "tensorrt", True),
        ("qwen3-vl-2b", "gtx-1080-ti", "ort-cuda", False),
        ("qwen3-vl-2b", "i5-10210u", None, False),
        ("qwen3-4b", "gtx-1080-ti", "tensorrt", False),
    ],
)
def test_the_largest_image_is_noted_where_engines_are_built(model, hardware, target, noted):
    notes = plan_of(model, hardware=hardware, target=target).notes
    assert any("images of up to 256 tokens" in note for note in notes) == noted


def test_a_cpu_keeps_weights_in_memory_and_the_rest_on_the_drive():
    small = plan_of("qwen3-4b", hardware="i5-10210u", precision="int4")
    assert {entry["place"] for entry in small.places} == {"RAM"} and small.host is None
    weights = sum(entry["bytes"] for entry in small.places if entry["part"] not in ("rotary angles", "cache"))
    assert small.kv_tokens["fp32"] == (8_000_000_000 - (1536 + 300) * MIB - weights) // (288 * 1024 + 512)
    assert place_bytes(small, "RAM", "rotary angles") == 512 * small.context_length
    large = plan_of("qwen3-4b", hardware="i5-10210u", precision="fp32")
    assert large.fits and place_bytes(large, "NVMe", "layers") > 9e9
    assert large.kv_tokens["fp32"] == 4096
    on_disk = sum(entry["bytes"] for entry in large.places if entry["place"] == "NVMe")
    assert decode_of(large)[0] == pytest.approx(DISK / on_disk, rel=0.01)
    assert any("read again for every token" in note for note in large.notes)


def test_the_memory_of_a_described_cpu(card_file):
    values = {"profile": "cpu-avx2", "name": "mine", "bandwidth_gb_s": 50, "fp32_tflops": 1, "int8_tops": 2}
    for more, memory in (({}, 8_000_000_000), ({"memory_gib": 32}, 32 * 2**30)):
        file = card_file(**values, **more)
        assert plan_of("qwen3-4b", hardware=file).memory == {"gpu": None, "host": memory}
        assert plan_of("qwen3-4b", hardware="gtx-1070", host=file).memory["host"] == memory
        assert plan_of("qwen3-4b", hardware=file, ram=10**10).memory["host"] == 10**10


def test_what_does_not_fit():
    plan = plan_of("qwen3-4b", hardware="mx250")
    assert not plan.fits and "of GPU memory are lacking" in plan.reason
    assert plan.speeds.decode == [] and plan.command == ""
    long = plan_of("qwen3-4b", hardware="gtx-1060-6gb", context_length=100_000)
    assert not long.fits and "for a cache of 100000 tokens" in long.reason
    cramped = plan_of("qwen3-coder-30b", hardware="gtx-1060-6gb", ram=1_000_000_000)
    assert not cramped.fits and "of the host's memory are lacking" in cramped.reason
    tiny = plan_of("qwen3-4b", hardware="i5-10210u", ram=2_000_000_000)
    assert not tiny.fits and "of memory are lacking" in tiny.reason


def test_a_smaller_recipe_is_named_where_the_usual_one_does_not_fit():
    """4 GB hold Qwen3-4B in 4 bits alone."""
    plan = plan_of("qwen3-4b", hardware="gtx-1050-ti")
    asked = plan_of("qwen3-4b", hardware="gtx-1050-ti", target="ort-cuda", precision="int4")
    assert not plan.fits and asked.fits and asked.smaller is None
    assert plan.smaller == Smaller("ort-cuda", "int4", decode_of(asked)[0])
    assert plan_of("qwen3-4b", hardware="gtx-1060-6gb").smaller is None
    assert plan_of("qwen3-4b", hardware="mx150").smaller is None
    assert plan_of("qwen3-4b", hardware="gtx-1050-ti", precision="w8a8-static").smaller is None
    assert plan_of("qwen3-4b", hardware="gtx-1050-ti", target="tensorrt").smaller is None


def test_a_smaller_recipe_is_named_where_it_is_much_faster():
    plan = plan_of("qwen3-coder-30b", hardware="rtx-3090")
    assert plan.fits and (plan.target, plan.smaller.target, plan.smaller.precision) == ("tensorrt", "ort-cuda", "int4")
    assert plan.smaller.tokens_per_s > 100 * decode_of(plan)[0]
    mapped = plan_of("qwen3-coder-30b", hardware="i5-10210u")
    assert mapped.smaller.tokens_per_s > 1.5 * decode_of(mapped)[0] and mapped.smaller.target == "ort-cpu"
    assert plan_of("qwen3-coder-30b", hardware="gtx-1060-6gb").smaller is None


def test_less_memory_than_the_card_has():
    whole, part = (plan_of("qwen3-4b", hardware="gtx-1080", vram=size) for size in (None, 6_000_000_000))
    freed = 8 * 2**30 - 6_000_000_000
    assert whole.kv_tokens["fp16"] - part.kv_tokens["fp16"] == pytest.approx(freed / (144 * 1024), abs=1)
    plans = make_plans(published_config("qwen3-4b"), "x", PlanOptions(hardware="sm61", vram=6_000_000_000))
    by_card = {plan.card: plan.memory["gpu"] for plan in plans}
    assert by_card["gtx-1080"] == 6_000_000_000 and by_card["mx250"] == 2 * 2**30


@pytest.mark.parametrize("shape", MODELS)
@pytest.mark.parametrize("profile", [profile for profile in profiles() if profile.cards], ids=lambda p: p.name)
def test_every_model_on_every_profile(profile, shape):
    plans = make_plans(published_config(shape), "some", PlanOptions(hardware=profile.name))
    assert [plan.card for plan in plans] == [card.name for card in profile.cards]
    for plan in plans:
        assert plan.fits == bool(plan.command) == bool(plan.speeds.decode) == (plan.reason == "")
        held = {"GPU": 0, "RAM": 0, "NVMe": 0}
        for entry in [*plan.places, *plan.reserved]:
            held[entry["place"]] += entry["bytes"]
        if plan.fits:
            assert plan.memory["gpu"] is None or held["GPU"] <= plan.memory["gpu"]
            assert held["RAM"] <= plan.memory["host"]
        json.dumps(plan.to_dict(), allow_nan=False)


@pytest.mark.parametrize("target", ["tensorrt", "ort-cuda"])
@pytest.mark.parametrize(("precision", "kind"), [("fp32", "fp32"), ("fp16", "fp16")])
def test_a_cache_has_the_type_that_the_recipe_computes_in(target, precision, kind):
    """As the export makes it; another type is refused."""
    asked = {"hardware": "rtx-3090", "target": target, "precision": precision, "context_length": 1000}
    plan = plan_of("qwen3-4b", **asked)
    assert (plan.kv_cache, plan.notes) == (kind, [])
    with pytest.raises(BadInputError, match=f"{kind}"):
        plan_of("qwen3-4b", kv_cache={"fp32": "fp16", "fp16": "fp32"}[kind], **asked)


def test_a_pattern_that_fits_no_tensor_is_refused_as_by_the_export(tmp_path):
    recipe = tmp_path / "kept.json"
    for pattern, fits in (("*.down_proj.weight", True), ("*.mlp.experts.*", False)):
        recipe.write_text(json.dumps({"base": "fp16", "overrides": {pattern: "fp32"}}))
        asked = {"hardware": "rtx-3090", "target": "tensorrt", "precision": str(recipe)}
        if fits:
            assert plan_of("qwen3-4b", **asked).fits
            continue
        with pytest.raises(BadInputError, match=r"the pattern '\*\.mlp\.experts\.\*' fits no tensor"):
            plan_of("qwen3-4b", **asked)


def test_the_command_says_what_was_planned():
    plan = plan_of("qwen3-4b", hardware="gtx-1060-6gb", kv_cache="fp32", context_length=1000)
    assert plan.command == (
        "inference-pio export models/some -o artifacts/some-sm61-w8a8-static --target tensorrt --hardware sm61 "
        "--precision w8a8-static --context-length 1000 --kv-cache fp32 --calibration default"
    )
    assert plan.build_command == "inference-pio build artifacts/some-sm61-w8a8-static --max-context 1000"
    half = plan_of("qwen3-4b", hardware="gtx-1060-6gb", kv_cache="fp16", context_length=1000)
    assert half.fits and half.command == half.build_command == "" and half.kv_exported == ["fp32"]
    assert half.notes == ["this version cannot export it yet: its caches are fp32"]
    cpu = plan_of("qwen3-4b", hardware="i5-10210u", precision="int4", context_length=1000)
    assert cpu.command == (
        "inference-pio export models/some -o artifacts/some-cpu-avx2-int4 --target ort-cpu --hardware cpu "
        "--precision int4 --context-length 1000"
    )
    assert cpu.notes == [] and cpu.build_command == "" and cpu.kv_exported == ["fp32", "int8"]


def test_a_cache_of_fixed_size_is_planned_as_the_export_makes_it():
    """Every sequence takes all of it, so the memory that is left is no reason to make it larger."""
    card = {"hardware": "rtx-4090", "precision": "fp16"}
    assert plan_of("qwen3-4b", target="tensorrt", **card).context_length == 4096
    assert plan_of("qwen3-4b", target="tensorrt", context_length=8192, **card).context_length == 8192
    assert plan_of("qwen3-4b", target="ort-cuda", **card).context_length > 8192
