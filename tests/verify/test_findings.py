"""Worst places, the first difference, and how KL is spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inference_pio.verify import findings
from inference_pio.verify.metrics import PositionTable
from inference_pio.verify.windows import Text, Windows, cut


def decode(ids: Sequence[int]) -> str:
    return " ".join(f"t{i}" for i in ids)


def case(positions: int = 100, window: int = 40) -> tuple[PositionTable, Windows]:
    """Position i has KL (i * 37 mod positions) / 1000; both models agree everywhere."""
    windows = cut(Text("text", "content"), list(range(positions + 1)), window, positions)
    count = windows.positions
    kl = (np.arange(count) * 37 % count) / 1000
    same = np.arange(count)
    table = PositionTable(kl, same, same.copy(), np.ones(count), np.ones(count, bool), kl + 1, kl + 1, kl)
    return table, windows


def test_worst_positions_come_with_their_text() -> None:
    table, windows = case()
    worst = findings.worst_positions(table, windows, decode)
    assert [place["kl"] for place in worst] == sorted(table.kl, reverse=True)[: findings.WORST]
    for place in worst:
        position = place["window"] * 40 + place["offset"]
        assert table.kl[position] == place["kl"]
        assert place["next"] == f"t{position + 1}"
        context = place["context"].split()
        assert context[-1] == f"t{position}"
        assert len(context) == min(place["offset"] + 1, findings.CONTEXT_TOKENS)  # never from another window


def test_fewer_positions_than_places() -> None:
    table, windows = case(positions=3)
    assert len(findings.worst_positions(table, windows, decode)) == 3


def test_the_first_divergence_in_the_order_of_the_text() -> None:
    table, windows = case()
    assert findings.first_divergence(table, windows, decode) is None
    table.candidate_top[[57, 83]] = 7
    first = findings.first_divergence(table, windows, decode)
    assert first is not None
    assert (first["window"], first["offset"]) == (1, 17)
    assert (first["original_prefers"], first["artifact_prefers"]) == ("t57", "t7")


def test_every_window_has_its_own_figures() -> None:
    table, windows = case(positions=100)
    table.candidate_top[[57, 63]] = 7
    rows = findings.by_window(table, windows, 0.1)
    assert [row["positions"] for row in rows] == [40, 40, 20]
    assert [row["first_divergence"] for row in rows] == [None, 17, None]
    assert [row["top1_agreement"] for row in rows] == [1, 0.95, 1]
    assert rows[2]["kl_mean"] == table.kl[80:].mean()


def test_stretches_of_the_window_cover_every_position_once() -> None:
    for positions, window in ((100, 40), (5, 512), (1, 1), (100, 7), (64, 16), (50, 17)):
        table, windows = case(positions, window)
        stretches = findings.by_offset(table, windows)
        assert len(stretches) <= findings.OFFSET_BINS
        assert [s["start"] for s in stretches[1:]] == [s["stop"] for s in stretches[:-1]]
        assert (stretches[0]["start"], stretches[-1]["stop"]) == (0, min(window, positions))
        offsets = np.arange(positions) % windows.window
        weights = [((offsets >= s["start"]) & (offsets < s["stop"])).sum() for s in stretches]
        assert np.isclose(np.average([s["kl_mean"] for s in stretches], weights=weights), table.kl.mean())


def test_the_histogram_counts_everything() -> None:
    found = findings.histogram(np.array([0.0, 1e-30, 1e-5, 2e-5, 0.5, 1e9, np.inf]))
    assert sum(found["counts"]) == 7
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert found["counts"][0] == 2
    assert found["counts"][-1] == 2
    assert found["counts"][found["edges"].index(-5.0)] == 2
