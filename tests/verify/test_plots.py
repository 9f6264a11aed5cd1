"""Plots are well-formed SVG with every figure inside the frame."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from inference_pio.verify import plots
from inference_pio.verify.plots import Series


def parse(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for element in root.iter():
        for key, limit in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("cy", height)):
            if key in element.attrib:
                assert -0.1 <= float(element.attrib[key]) <= limit + 0.1
        if "width" in element.attrib:
            assert float(element.attrib["width"]) >= 0
            assert float(element.attrib["x"]) + float(element.attrib["width"]) <= width + 0.1
    return root


EDGES = [-12 + 0.5 * i for i in range(29)]


@pytest.mark.parametrize("filled", [[], [0], [27], [3, 4, 9], range(28)])
@pytest.mark.parametrize("marker", [None, 0.0, 1e-20, 3e-4, 1e3])
def test_histograms(filled: list[int], marker: float | None) -> None:
    counts = [7 if i in filled else 0 for i in range(28)]
    root = parse(plots.histogram(EDGES, counts, marker, "mean"))
    bars = [e for e in root if e.attrib.get("class") == "bar" and float(e.attrib["height"]) > 0]
    assert len(bars) == len(list(filled))
    assert len([e for e in root if e.attrib.get("class") == "marker"]) == bool(marker)


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [1.0, None, 3.0], [None], [1e-300, 1e300], [float(i) for i in range(200)]]
)
def test_lines(values: list[float | None]) -> None:
    labels = [str(i) for i in range(len(values))]
    root = parse(plots.lines("title", labels, "x", "y", [Series("original", "original", values)]))
    dots = [e for e in root if e.attrib.get("class", "").startswith("dot")]
    assert len(dots) == sum(value is not None for value in values)


@pytest.mark.parametrize("limit", [None, 0.0, 1.0, 1e6])
@pytest.mark.parametrize("values", [(1.0, 2.0), (0.0, 0.0), (None, 1e-9)])
def test_bars(values: tuple[float | None, float | None], limit: float | None) -> None:
    parse(plots.bars("title", [("one", "original", values[0]), ("two", "artifact", values[1])], limit))


def test_text_from_outside_is_escaped() -> None:
    root = parse(plots.lines("<b>", ["<i>"], "a&b", "<u>", [Series('"<s>', "original", [1.0])]))
    assert {element.tag for element in root.iter()} <= {"svg", "line", "text", "polyline", "circle", "title"}
    assert "a&b" in {element.text for element in root.iter()}


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 1), (1.2, 1.5), (7, 8), (95, 100), (2.4e-7, 2.5e-7)],
)
def test_axes_end_at_round_numbers(value: float, top: float) -> None:
    assert plots.nice_top(value) == pytest.approx(top)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "not finite"), (0, "0"), (0.5, "0.5"), (1234.5678, "1235"), (1e-9, "1.00e-09"), (2e7, "2.00e+07")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert plots.number(value) == text
