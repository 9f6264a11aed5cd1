"""What a calibration says of its linear layers."""

from inference_pio.calibration.report import SUGGESTED_ABOVE, summary


def test_suggestions_are_tensors_that_a_recipe_can_name():
    """Of one that is multiplied in parts only the whole has a format."""
    errors = {"u": SUGGESTED_ABOVE / 2, "w[key]": SUGGESTED_ABOVE * 2, "v": SUGGESTED_ABOVE * 3, "w[value]": 0.1}
    same = {"plain_error": 0.2, "smoothing": None, "exact_columns": 0, "kept_in_float32": False}
    linears = [{"tensor": name, "error": error, **same} for name, error in errors.items()]
    found = summary([{"layer": 0, "output_error": 0.1, "linears": linears}])
    assert found["worst"] == ["w[value]", "v", "w[key]", "u"]
    assert found["suggested_exceptions"] == ["w", "v"]
