"""Every rule stands in docs/lint.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_pio.graphs.lint import DIALECTS, find_dialect

PAGE = Path(__file__).parents[3] / "docs" / "lint.md"


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_page_lists_the_rules(dialect):
    section = PAGE.read_text("utf-8").partition(f"## `{dialect}`")[2].partition("\n## ")[0]
    assert not [rule.name for rule in find_dialect(dialect).rules if f"`{rule.name}`" not in section]
