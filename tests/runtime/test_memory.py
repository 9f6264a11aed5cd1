"""The memory budget counts what is taken, and says what would be enough."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from inference_pio.errors import ResourceLimitError
from inference_pio.runtime.memory import MemoryBudget


def test_taking_and_giving():
    budget = MemoryBudget(100)
    budget.take(60, "weights")
    budget.take(40, "a cache")
    budget.give(50)
    budget.take(50, "another cache")
    assert budget.taken == 100


def test_too_much_is_refused_and_not_taken():
    budget = MemoryBudget(10_000_000)
    budget.take(4_000_001, "weights")
    with pytest.raises(ResourceLimitError, match=r"a cache needs 7 MB beside the 5 MB in use, .* at least 11 MB"):
        budget.take(6_500_000, "a cache")
    assert budget.taken == 4_000_001


def test_reserves_are_given_up_for_what_does_not_fit():
    budget, asked = MemoryBudget(100), []
    budget.take(60, "a reserve")

    def reclaim() -> None:
        asked.append(budget.taken)
        if len(asked) == 1:
            budget.give(60)

    budget.reclaim = reclaim
    budget.take(40, "what fits")
    assert not asked
    budget.take(50, "what fits without the reserve")
    assert (asked, budget.taken) == ([100], 90)
    with pytest.raises(ResourceLimitError, match="too much"):
        budget.take(50, "too much")
    assert (asked, budget.taken) == ([100, 90], 90)


def test_without_a_limit_anything_goes():
    MemoryBudget(None).take(1 << 60, "everything")


def test_threads_do_not_lose_count():
    budget = MemoryBudget(1000)

    def use(_: int) -> None:
        for _ in range(200):
            budget.take(10, "a little")
            budget.give(10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))
    assert budget.taken == 0
