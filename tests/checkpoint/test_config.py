from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inference_pio.checkpoint.config import ConfigReader
from inference_pio.errors import BadInputError


def reader(**values: Any) -> ConfigReader:
    return ConfigReader(values)


def test_values_of_the_right_type_are_returned() -> None:
    config = reader(i=3, f=0.5, whole=7, s="x", b=True, li=[1, 2], ls=["a"], lf=[1, 2.5], lb=[False], e=[])
    assert config.need_int("i") == 3
    assert config.need_float("f") == 0.5
    assert (config.need_float("whole"), type(config.need_float("whole"))) == (7.0, float)
    assert config.need_str("s") == "x"
    assert config.optional_int("i", None) == 3
    assert config.optional_float("f", 1.0) == 0.5
    assert config.optional_str("s", None) == "x"
    assert config.optional_bool("b", False) is True
    assert config.optional_list("li", int) == [1, 2]
    assert config.optional_list("ls", str, length=1) == ["a"]
    assert config.optional_list("lf", float) == [1.0, 2.5]
    assert config.optional_list("lb", bool) == [False]
    assert config.optional_list("e", int) == []
    config.finish()


def test_null_and_absent_can_be_told_apart() -> None:
    config = ConfigReader({"k": None, "l": 1, "inner": {"k": None}})
    assert config.is_null("k")
    assert not config.is_null("l") and not config.is_null("absent")
    section = config.section("inner")
    assert section is not None and section.is_null("k") and not section.is_null("l")


@pytest.mark.parametrize("values", [{}, {"k": None}])
def test_null_counts_as_absent(values: dict[str, Any]) -> None:
    config = ConfigReader(values)
    assert config.optional_int("k", 5) == 5
    assert config.optional_float("k", None) is None
    assert config.optional_str("k", "d") == "d"
    assert config.optional_bool("k", True) is True
    assert config.optional_list("k", str) is None
    assert config.expect("k", 1) is None
    assert config.first_of("k", "l") is None
    assert config.section("k") is None
    for need in (config.need_int, config.need_float, config.need_str):
        with pytest.raises(BadInputError, match=r"config\.json: k is missing"):
            need("k")


READS: dict[str, Callable[[ConfigReader], Any]] = {
    "int": lambda config: config.need_int("k"),
    "optional int": lambda config: config.optional_int("k", 1),
    "float": lambda config: config.need_float("k"),
    "optional float": lambda config: config.optional_float("k", None),
    "str": lambda config: config.need_str("k"),
    "optional str": lambda config: config.optional_str("k", None),
    "bool": lambda config: config.optional_bool("k", False),
    "list of int": lambda config: config.optional_list("k", int),
    "list of float": lambda config: config.optional_list("k", float),
    "list of str": lambda config: config.optional_list("k", str),
    "section": lambda config: config.section("k"),
    "expect": lambda config: config.expect("k", "silu", 1),
}

WRONG: dict[str, list[Any]] = {
    "int": [True, False, 32.0, "32", [32], {}, 0, -1, 2**31, 2**63, 10**90, ""],
    "optional int": [True, 32.0, "32", 0, 2**63],
    "float": [True, "1.0", [1.0], {}, float("nan"), float("inf"), 10**400, 3.5e38, -1e308, ""],
    "optional float": [False, "1.0", {"__float__": "Infinity"}, float("-inf")],
    "str": [1, True, ["a"], {}, ""],
    "optional str": [0, False, []],
    "bool": [0, 1, "true", "", [], 1.0],
    "list of int": ["ab", {}, 1, [True], [1, 2.0], [None], [[1]]],
    "list of float": [[True], [float("nan")], ["1"], [10**400]],
    "list of str": ["ab", [1], ["a", None]],
    "section": [[], "x", 1, True],
    "expect": ["gelu", 2, True, "", [], {"a": 1}],
}


@pytest.mark.parametrize(("read", "value"), [(read, value) for read in WRONG for value in WRONG[read]])
def test_wrong_types_and_impossible_numbers_are_refused_by_name(read: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=r"config\.json: k") as caught:
        READS[read](reader(k=value))
    assert len(str(caught.value)) < 250


def test_bounds_of_integers_are_inclusive() -> None:
    assert reader(k=2**31 - 1).need_int("k") == 2**31 - 1
    assert reader(k=0).need_int("k", minimum=0) == 0
    assert reader(k=9).need_int("k", maximum=9) == 9
    with pytest.raises(BadInputError, match="k is 10; it must be 1 to 9"):
        reader(k=10).need_int("k", maximum=9)
    with pytest.raises(BadInputError, match="k is 4; it must be 5 to"):
        reader(k=4).optional_int("k", None, minimum=5)


def test_bounds_of_numbers() -> None:
    assert reader(k=float(np.finfo(np.float32).max)).need_float("k") == np.finfo(np.float32).max
    assert reader(k=1).need_float("k", minimum=1.0, maximum=1.0) == 1.0
    assert reader(k=1.5).optional_float("k", None, exclusive_minimum=1.0) == 1.5
    for bounds in ({"exclusive_minimum": 1.0}, {"minimum": 1.5}, {"maximum": 0.5}):
        with pytest.raises(BadInputError, match=r"k is 1\.0; it must be"):
            reader(k=1).need_float("k", **bounds)
        with pytest.raises(BadInputError, match=r"k is 1\.0; it must be"):
            reader(k=1).optional_float("k", 2.0, **bounds)


def test_lengths_and_items_of_lists_are_named() -> None:
    with pytest.raises(BadInputError, match="k has 2 items; 3 are needed"):
        reader(k=["a", "b"]).optional_list("k", str, length=3)
    with pytest.raises(BadInputError, match=r"item 1 of config\.json: k is True, not an integer"):
        reader(k=[1, True]).optional_list("k", int)


def test_expected_values_pass_and_others_name_what_is_supported() -> None:
    assert reader(k="silu").expect("k", "silu", "swish") == "silu"
    assert reader(k=1).expect("k", 1.0) == 1
    with pytest.raises(BadInputError, match="k is 'gelu'; only 'silu' or 'swish' is supported"):
        reader(k="gelu").expect("k", "silu", "swish")
    with pytest.raises(BadInputError, match="k is True; only 1"):
        reader(k=True).expect("k", 1)


def test_two_spellings_may_agree_but_not_contradict() -> None:
    config = reader(dtype="bfloat16", torch_dtype="bfloat16")
    assert config.first_of("dtype", "torch_dtype") == "bfloat16"
    assert reader(torch_dtype="float16").first_of("dtype", "torch_dtype") == "float16"
    with pytest.raises(BadInputError, match=r"config\.json: a is 'x' but b is 'y'"):
        reader(a="x", b="y").first_of("a", "b")
    with pytest.raises(BadInputError, match="a is 1 but b is True"):
        reader(a=1, b=True).first_of("a", "b")


def test_sections_say_where_they_are() -> None:
    section = reader(rope_scaling={"factor": "4", "odd": 1, "null": None}).section("rope_scaling")
    assert section is not None
    assert (section.where, section.values) == ("config.json: rope_scaling", {"factor": "4", "odd": 1})
    with pytest.raises(BadInputError, match=r"config\.json: rope_scaling: factor is '4', not a number"):
        section.need_float("factor")
    with pytest.raises(BadInputError, match=r"config\.json: rope_scaling has keys .*: 'odd'"):
        section.finish()


def test_a_section_opened_twice_remembers_what_was_read() -> None:
    config = reader(rope={"factor": 4.0})
    for _ in range(2):
        section = config.section("rope")
        assert section is not None
    section.need_float("factor")
    again = config.section("rope")
    assert again is not None
    again.finish()


def test_unknown_keys_are_refused_unless_they_are_empty() -> None:
    config = reader(none=None, no=False, zero=0, nil=0.0, text="", items=[], table={}, odd=1)
    with pytest.raises(BadInputError, match=r"does not know: 'odd'; this may change the maths"):
        config.finish()
    with pytest.raises(BadInputError, match="--ignore-config-key"):
        config.finish(frozenset({"other"}))


@pytest.mark.parametrize("value", [1, True, "x", [0], {"a": None}, -1, 0.1])
def test_any_other_value_of_an_unknown_key_is_refused(value: Any) -> None:
    with pytest.raises(BadInputError, match="'odd'"):
        reader(odd=value).finish()


def test_keys_can_be_ignored_in_three_ways() -> None:
    reader(odd=1).finish(frozenset({"odd"}))
    config = ConfigReader({"odd": 1, "sub": {"odd": 1}}, ignored=frozenset({"odd"}))
    section = config.section("sub")
    assert section is not None
    section.finish()
    config.finish()
    config = reader(odd=1)
    config.ignore("odd", "absent")
    config.finish()


def test_many_unknown_keys_are_counted() -> None:
    with pytest.raises(BadInputError, match="'k07' and 2 more"):
        ConfigReader({f"k{i:02}": 1 for i in range(10)}).finish()
