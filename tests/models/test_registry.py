"""Plugins of other packages are found by their entry points, and a broken one hides no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tomllib

from inference_pio.errors import BadInputError
from inference_pio.models import ArtifactPlugin, create_plugin, find_plugins
from inference_pio.models.registry import GROUP, SHIPPED

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin_package"
LLAMA = "llama_3_2_1b_instruct"


def install(folder: Path, name: str, entries: dict[str, str]) -> None:
    """What an installer leaves of a package's entry points."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{key} = {value}" for key, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python imports from."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_four_models_are_there():
    assert [found.name for found in find_plugins()][:4] == [
        "qwen3_4b_instruct_2507",
        "qwen3_coder_30b",
        "qwen3_vl_2b_instruct",
        "glm_4_7_flash",
    ]
    assert all(found.package == "inference-pio" and found.plugin for found in find_plugins()[:4])
    assert create_plugin("glm_4_7_flash").metadata.num_parameters == 29_943_393_920


def test_the_example_package(site: Path):
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())
    shutil.copytree(EXAMPLE / "llama_plugins", site / "llama_plugins")
    assert LLAMA not in [found.name for found in find_plugins()]
    install(site, project["project"]["name"], project["project"]["entry-points"][GROUP])
    found = next(found for found in find_plugins() if found.name == LLAMA)
    assert (found.package, found.problem) == ("llama-plugins", None)
    plugin = create_plugin(LLAMA)
    assert isinstance(plugin, ArtifactPlugin) and plugin.metadata.model_architecture == "llama"
    with pytest.raises(ValueError, match=f"export meta-llama/Llama-3.2-1B-Instruct -o artifacts/{LLAMA}"):
        plugin.infer("hi")
    assert project["tool"]["setuptools"]["packages"] == ["llama_plugins"]


def test_the_parameters_of_the_example():
    """Token table, 16 layers of attention, MLP and two norms, the last norm."""
    layer = 2 * 2048 * 2048 + 2 * 512 * 2048 + 3 * 2048 * 8192 + 2 * 2048
    text = (EXAMPLE / "llama_plugins" / "__init__.py").read_text()
    assert f"parameters={128_256 * 2048 + 16 * layer + 2048:_}," in text


def test_a_broken_plugin_hides_no_other(site: Path):
    (site / "broken_plugins.py").write_text("def fails():\n    raise RuntimeError('no luck\\nat all')\nnumber = int\n")
    entries = {
        "a_missing": "no_such_module:make",
        "b_lacking": "broken_plugins:nothing",
        "c_failing": "broken_plugins:fails",
        "d_other": "broken_plugins:number",
        "glm_4_7_flash": "broken_plugins:number",
    }
    install(site, "broken-plugins", entries)
    found = {(one.package, one.name): one for one in find_plugins()}
    problems = {name: found["broken-plugins", name].problem for name in entries}
    assert "no_such_module" in str(problems["a_missing"]) and "nothing" in str(problems["b_lacking"])
    assert problems["c_failing"] == "RuntimeError: no luck"
    assert problems["d_other"] == "broken_plugins:number makes a int, not a plugin"
    assert problems["glm_4_7_flash"] == "another plugin has this name already"
    assert all(found["inference-pio", name].plugin for name in SHIPPED)
    assert create_plugin("glm_4_7_flash").metadata.model_family == "GLM"
    with pytest.raises(BadInputError, match="plugin c_failing of broken-plugins cannot be used: RuntimeError: no luck"):
        create_plugin("c_failing")


def test_an_unknown_name_names_the_known_ones():
    with pytest.raises(BadInputError, match="no plugin 'gpt'; there are qwen3_4b_instruct_2507, qwen3_coder_30b"):
        create_plugin("gpt")
