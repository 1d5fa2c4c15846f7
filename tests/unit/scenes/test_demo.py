"""The demo's configuration: the one of the package, worded as the embedded model was trained."""

from __future__ import annotations

from pathlib import Path

from spr.scenes.demo import CONFIG
from spr.scenes.language import PROMPTS
from spr.wiring import load_config


def test_configs_demo_is_the_packages_own() -> None:
    """The package cannot reach into configs/, so the file stands there twice."""
    assert (Path(__file__).parents[3] / "configs" / "demo.yaml").read_bytes() == CONFIG.read_bytes()


def test_the_demo_asks_what_the_model_was_taught(tmp_path: Path) -> None:
    config = load_config(CONFIG, [f"run={tmp_path}"])
    assert config.prompts == PROMPTS
    assert config.describe.templates == tuple(PROMPTS)
