"""Will a model fit a machine, where does each part live, and how fast can it be at best: arithmetic, no measurement.

A package of its own because a plan needs what an export decides (architecture, recipe, target) and nothing that an
export does: it stands above `export` and reads a config.json, no weights.
"""
