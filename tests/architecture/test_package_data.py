"""Everything that the package reads at run time is installed with it."""

from fnmatch import fnmatch
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[2]
PATTERNS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]


def test_every_file_that_is_no_module_is_package_data() -> None:
    names = [pattern.removeprefix("**/") for pattern in PATTERNS["inference_pio"]]
    assert not any("/" in name for name in names)
    data = [
        path
        for path in (ROOT / "inference_pio").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    ]
    assert {"qwen3_moe", "png", "text"} <= {path.parent.name for path in data}
    assert [str(path) for path in data if not any(fnmatch(path.name, name) for name in names)] == []
