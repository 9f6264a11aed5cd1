"""Sizes of the published models are worked out once: their graphs of 18,000 experts take a second to build."""

import pytest

from inference_pio.planning import planner

SHAPES, SIZES = {}, {}


@pytest.fixture(autouse=True)
def remembered(monkeypatch):
    """Makes planners remember what depends on nothing but the model and the recipe."""
    tensor_shapes, part_sizes = planner.tensor_shapes, planner.part_sizes

    def shapes_of(architecture, spec):
        if spec not in SHAPES:
            SHAPES[spec] = tensor_shapes(architecture, spec)
        return SHAPES[spec]

    def sizes_of(shapes, spec, recipe):
        if (spec, recipe) not in SIZES:
            SIZES[spec, recipe] = part_sizes(shapes, spec, recipe)
        return SIZES[spec, recipe]

    monkeypatch.setattr(planner, "tensor_shapes", shapes_of)
    monkeypatch.setattr(planner, "part_sizes", sizes_of)
