"""The page stands alone, shows every figure and lets no text through as markup."""

from __future__ import annotations

import copy
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from inference_pio.verify import VerifyOptions, verify
from inference_pio.verify.report_html import figure, render, token

VOID = {"meta", "br"}
EVIL = "<script>alert('x')</script>&\"'"


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def report(tiny: Path, tiny_artifact: Callable[[str], Path]) -> dict[str, Any]:
    return verify(tiny_artifact("int4"), tiny, VerifyOptions(window=40, positions=120, threads=1)).to_dict()


def test_the_page_stands_alone_and_says_what_counts(report: dict[str, Any]) -> None:
    text = render(report)
    page = Page(text)
    assert page.addresses == []
    assert "script" not in page.tags
    assert "url(" not in text
    assert page.text.count("Passed" if report["passed"] else "Failed") == 2
    for key in ("kl_mean", "kl_p99", "kl_max", "max_logit_difference"):
        assert figure(report[key]) in page.text
    assert figure(report["top1_agreement"], "top1_agreement") in page.text
    assert report["artifact"]["fingerprint"] in page.text
    assert text.count("<svg") == 4
    assert len(text) < 100_000


def test_failures_stand_on_top(report: dict[str, Any]) -> None:
    failed = copy.deepcopy(report)
    failed["passed"] = failed["gate"]["passed"] = False
    failed["gate"]["failures"] = ["kl_mean is 5, at most 1 is allowed"]
    failed["tokenizer"]["matches"] = False
    failed["baseline"] = {"file": "b", "passed": False, "failures": ["kl_mean grew"]}
    page = Page(render(failed))
    assert page.text.index("kl_mean is 5") < page.text.index("Plots")
    assert "Failed" in page.text
    assert "other tokens" in page.text


def replaced(value: Any) -> Any:
    """Every text of a report replaced by a hostile one."""
    if isinstance(value, dict):
        return {key: replaced(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_no_text_becomes_markup(report: dict[str, Any]) -> None:
    hostile = replaced(report)
    hostile["artifact"]["weights"] = {EVIL: EVIL}
    hostile["versions"] = {EVIL: EVIL}
    page = Page(render(hostile))
    assert "script" not in page.tags
    assert EVIL in page.text


def without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: item if key in ("counts", "edges") else without_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_numbers(item) for item in value]
    return None if isinstance(value, float) else value


def test_a_broken_artifact_still_has_a_page(report: dict[str, Any]) -> None:
    empty = without_numbers(report)
    for check in empty["gate"]["checks"]:
        check["limit"] = 1.0
    empty["clear_gap"] = 0.1
    assert "not measured" in Page(render(empty)).text


@pytest.mark.parametrize(("text", "shown"), [("", "(nothing)"), (" a\n", "␣a⏎"), ("\t", "→"), ("\r\n", "␍⏎")])
def test_single_tokens_are_shown_on_one_line(text: str, shown: str) -> None:
    assert token(text) == shown
