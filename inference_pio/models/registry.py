"""Which plugins there are: the shipped ones, and those of installed packages' entry points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from inference_pio.artifact.printable import printable
from inference_pio.errors import BadInputError
from inference_pio.models import glm_4_7_flash, qwen3_4b_instruct_2507, qwen3_coder_30b, qwen3_vl_2b_instruct
from inference_pio.models.interface import ModelPluginInterface

GROUP = "inference_pio.models"
"""Entry points of this group name a callable without arguments that makes a plugin, under the plugin's name."""

SHIPPED: dict[str, Callable[[], ModelPluginInterface]] = {
    qwen3_4b_instruct_2507.CARD.name: qwen3_4b_instruct_2507.create_qwen3_4b_instruct_2507_plugin,
    qwen3_coder_30b.CARD.name: qwen3_coder_30b.create_qwen3_coder_30b_plugin,
    qwen3_vl_2b_instruct.CARD.name: qwen3_vl_2b_instruct.create_qwen3_vl_2b_instruct_plugin,
    glm_4_7_flash.CARD.name: glm_4_7_flash.create_glm_4_7_flash_plugin,
}


@dataclass(frozen=True)
class FoundPlugin:
    """A plugin by name and the package that it comes from; without a `plugin`, the `problem` says why."""

    name: str
    package: str
    plugin: ModelPluginInterface | None
    problem: str | None = None


def find_plugins() -> list[FoundPlugin]:
    """All plugins, the shipped ones first; one that cannot be made does not hide the others."""
    found = [FoundPlugin(name, "inference-pio", create()) for name, create in SHIPPED.items()]
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package = entry.dist.name if entry.dist else entry.value
        if any(entry.name == other.name for other in found):
            found.append(FoundPlugin(entry.name, package, None, "another plugin has this name already"))
        else:
            found.append(_made(entry, package))
    return found


def create_plugin(name: str) -> ModelPluginInterface:
    """The plugin called so; raises BadInputError for an unknown name and for a plugin that cannot be made."""
    plugins = find_plugins()
    found = next((one for one in plugins if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in plugins)
        raise BadInputError(f"there is no plugin {printable(name)}; there are {known}")
    if found.plugin is None:
        raise BadInputError(f"the plugin {name} of {found.package} cannot be used: {found.problem}")
    return found.plugin


def _made(entry: EntryPoint, package: str) -> FoundPlugin:
    try:
        plugin = entry.load()()
    except Exception as error:  # noqa: BLE001 (other people's code may raise anything)
        return FoundPlugin(entry.name, package, None, f"{type(error).__name__}: {error}".splitlines()[0][:300])
    if not isinstance(plugin, ModelPluginInterface):
        return FoundPlugin(entry.name, package, None, f"{entry.value} makes a {type(plugin).__name__}, not a plugin")
    return FoundPlugin(entry.name, package, plugin)
