"""Options are checked when they are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_pio.errors import BadInputError
from inference_pio.verify.options import VerifyOptions


def test_fp32_is_compared_on_more_positions() -> None:
    assert VerifyOptions().positions_for("fp32") == 10_240
    assert VerifyOptions().positions_for("int4") == 4_096
    assert VerifyOptions(positions=7).positions_for("fp32") == 7


@pytest.mark.parametrize("change", [{"window": 0}, {"positions": 0}, {"threads": -1}])
def test_sizes_below_one_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(BadInputError, match="at least 1"):
        VerifyOptions(**change)


def test_a_reference_is_either_reused_or_saved() -> None:
    with pytest.raises(BadInputError, match="one of the two"):
        VerifyOptions(reference=Path("a"), save_reference=Path("b"))
