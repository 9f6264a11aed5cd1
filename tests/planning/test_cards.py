"""Cards by name, class, file and detection; every one of them has sound figures."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.graphs.hardware import find_hardware, profiles
from inference_pio.machine.gpus import Gpu
from inference_pio.planning import cards
from inference_pio.planning.cards import DEFAULT_HOST, find_cards, find_host, read_card

GOOD = {
    "profile": "sm61",
    "name": "mine",
    "memory_gib": 5.5,
    "bandwidth_gb_s": 100,
    "fp32_tflops": 3.0,
    "int8_tops": 12,
    "display": False,
}


@pytest.fixture
def written(tmp_path):
    """Writes a value as JSON and returns the path."""

    def write(values):
        path = tmp_path / "card.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return path

    return write


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_figures_are_sound(profile):
    assert profile.title and profile.int8 and profile.dtypes
    assert profile.sources or not profile.cards
    assert profile.is_gpu or profile.cpu_classes
    for card in profile.cards:
        assert card.bandwidth_gb_s > 10 and card.fp32_tflops > 0.1
        assert 2 * card.fp32_tflops - 0.01 <= card.int8_tops <= 60 * card.fp32_tflops
        assert (card.memory > 0) == profile.is_gpu
        assert find_cards(card.name) == (profile, (card,))
        assert find_hardware(card.name, profile.targets[0]) is profile


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_every_figure_has_a_source(profile):
    named = {name for source in profile.sources for name in re.split(r"[ ,]+", source.split(":")[0])}
    assert {card.name for card in profile.cards} <= named
    assert "capability" in named or not profile.is_gpu
    last = {name for name, version in asdict(profile.last).items() if version is not None}
    assert last <= {name.lower().replace("-", "_") for name in named}


def test_no_two_cards_share_a_name():
    found = [card for profile in profiles() for card in profile.cards]
    for names in ([card.name for card in found], [card.title for card in found]):
        assert len(set(names)) == len(names)
    assert not {card.name for card in found} & {profile.name for profile in profiles()}


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_the_page_has_every_card_with_its_figures(profile):
    page = (Path(__file__).parents[2] / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert f"| `{profile.name}` | {profile.title} |" in page
    for card in profile.cards:
        figures = [card.memory_gib, card.bandwidth_gb_s, card.fp32_tflops, card.fp16_tflops, card.int8_tops]
        row = " | ".join([f"| `{card.name}`", profile.name, *(str(figure or "-") for figure in figures)])
        assert f"{row} |" in page


def test_a_class_is_all_its_cards():
    profile, found = find_cards("sm61")
    assert found == profile.cards and {"gtx-1060-6gb", "p40", "mx250"} <= {card.name for card in found}


def test_pascal_multiplies_int8_four_times_as_fast():
    for card in find_cards("sm61")[1]:
        assert card.int8_tops == pytest.approx(4 * card.fp32_tflops, rel=0.01) and card.fp16_tflops == 0


def test_a_file(written):
    profile, card = read_card(written(GOOD))
    assert profile.name == "sm61" and card.memory == int(5.5 * 2**30) and not card.display
    assert (card.name, card.title, card.fp16_tflops, card.int8_tops) == ("mine", "mine", 0, 12)
    assert find_cards(str(written(GOOD)))[1] == (card,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": "sm60"}, "profile 'sm60' is not known: use one of cpu"),
        ({"profile": 7}, "profile 7 is not known"),
        ({"name": ""}, "name and title must be text"),
        ({"name": 3}, "name and title must be text"),
        ({"display": 1}, "display true or false"),
        ({"memory_gib": 0}, "memory_gib is 0, and must be more than 0"),
        ({"memory_gib": -6}, "memory_gib is -6"),
        ({"memory_gib": "6GB"}, "memory_gib must be a number, not '6GB'"),
        ({"bandwidth_gb_s": True}, "bandwidth_gb_s must be a number"),
        ({"int8_tops": None}, "int8_tops must be a number, not None"),
        ({"fp16_tflops": -1}, "fp16_tflops is -1"),
        ({"memory_gib": 1e308}, "memory_gib is 1e\\+308, which no card has: check its unit"),
        ({"fp16_tflops": 1e30}, "fp16_tflops is 1e\\+30, which no card has"),
        ({"bandwidth_gb_s": 1e-320}, "which no card has"),
        ({"vram": 6}, "unknown entry 'vram'"),
    ],
    ids=str,
)
def test_broken_files(written, changes, words):
    with pytest.raises(BadInputError, match=words):
        read_card(written({**GOOD, **changes}))


@pytest.mark.parametrize("missing", ["profile", "name", "bandwidth_gb_s", "fp32_tflops", "int8_tops", "memory_gib"])
def test_incomplete_files(written, missing):
    with pytest.raises(BadInputError, match=missing):
        read_card(written({key: value for key, value in GOOD.items() if key != missing}))


def test_files_that_are_none(written, tmp_path):
    for text, words in (("[1]", "object"), ("{", "JSON"), ('{"name": NaN}', "NaN")):
        with pytest.raises(BadInputError, match=words):
            find_cards(str(written(text)))
    with pytest.raises(BadInputError, match="does not exist"):
        find_cards(str(tmp_path / "absent.json"))


@pytest.mark.parametrize("name", ["", "gtx-9999", "cpu", "SM61", "../sm61"])
def test_unknown_names(name):
    with pytest.raises(BadInputError, match=r"is not known: use the name of a card, a class of them \(cpu-avx-vnni"):
        find_cards(name)


@pytest.mark.parametrize("name", ["sm61", "gtx-1070", "cpu-avx2"])
def test_a_host_is_one_cpu(name):
    assert find_host(DEFAULT_HOST).name == DEFAULT_HOST
    with pytest.raises(BadInputError, match=f"--host {name} is not one CPU"):
        find_host(name)


def gpu(name, capability):
    return Gpu(name, capability, 6 << 30, 5 << 30, "580.1")


def test_auto_is_what_the_driver_names(monkeypatch):
    monkeypatch.setattr(cards, "find_gpus", lambda: [gpu("NVIDIA GeForce GTX 1070", "6.1")])
    assert [card.name for card in find_cards("auto")[1]] == ["gtx-1070"]
    monkeypatch.setattr(cards, "find_gpus", lambda: [])
    monkeypatch.setattr(cards, "cpu_name", lambda: "Intel(R) Core(TM) i5-10210U CPU @ 1.60GHz")
    assert find_cards("auto")[1] == (find_host("i5-10210u"),)


def test_auto_names_a_card_of_the_class_with_about_as_much_memory(monkeypatch):
    monkeypatch.setattr(cards, "find_gpus", lambda: [gpu("NVIDIA GeForce GTX 1060 with Max-Q Design", "6.1")])
    with pytest.raises(BadInputError, match="name another card with --hardware such as gtx-1060-6gb, or describe"):
        find_cards("auto")


@pytest.mark.parametrize("capability", ["6.1", "3.5"])
def test_auto_without_figures(monkeypatch, capability):
    monkeypatch.setattr(cards, "find_gpus", lambda: [gpu("Quadro P9999", capability)])
    with pytest.raises(BadInputError, match=r"no figures are known of Quadro P9999: .* in a .json file with profile"):
        find_cards("auto")
