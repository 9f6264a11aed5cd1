from inference_pio.artifact.printable import listed, printable


def test_control_characters_and_surrogates_are_escaped() -> None:
    shown = printable("a\x1b[31m\n\ud800")
    assert shown.isprintable()
    shown.encode("utf-8")


def test_long_and_nested_values_are_cut() -> None:
    assert len(printable("x" * 10_000_000)) < 130
    assert len(printable(10**90)) < 50
    nested: list[object] = []
    for _ in range(50_000):
        nested = [nested]
    assert len(printable(nested)) < 50


def test_listed_names_eight_and_counts_the_rest() -> None:
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([f"t{i}" for i in range(8)]).endswith("'t7'")
    assert listed([f"t{i}" for i in range(11)]).endswith("'t7' and 3 more")
