"""Wheels carry the reference weights; a clone has them beside the package."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WeightsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts `weights/` into wheels, and not into editable installations."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is built."""
        if version == "standard":
            build_data["force_include"]["weights"] = "heph_vl/weights"
