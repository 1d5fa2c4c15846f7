"""The demo's configuration: the one of the package, worded as the embedded model was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from spr.lab.demo import CONFIG
from spr.lab.tune import on_val, overrides_of
from spr.run.wiring import load_config
from spr.scenes.language import PROMPTS


def test_configs_demo_is_the_packages_own() -> None:
    """The package cannot reach into configs/, so the file stands there twice."""
    assert (Path(__file__).parents[3] / "configs" / "demo.yaml").read_bytes() == CONFIG.read_bytes()


def test_the_demo_asks_what_the_model_was_taught(tmp_path: Path) -> None:
    config = load_config(CONFIG, [f"run={tmp_path}"])
    assert config.prompts == PROMPTS
    assert config.describe.templates == tuple(PROMPTS)


@pytest.mark.parametrize(
    ("variant", "name", "overrides"),
    [
        ("base", "base", []),
        (
            "strong: adapters.spr.learning_rate=1e-4, pair.lam=0.5",
            "strong",
            ["adapters.spr.learning_rate=1e-4", "pair.lam=0.5"],
        ),
        # a comma inside a value
        (
            "few:describe.templates=[plain, crop],seed=3",
            "few",
            ["describe.templates=[plain, crop]", "seed=3"],
        ),
    ],
)
def test_a_variant_of_tuning_is_a_name_with_overrides(variant: str, name: str, overrides: list[str]) -> None:
    assert overrides_of(variant) == (name, overrides)


def test_tuning_asks_val_and_nothing_else() -> None:
    """Choosing a setting by looking at test would make its row worthless."""
    config = on_val(load_config(CONFIG), 50)
    assert list(config.adapters) == ["spr"]
    assert [(b.name, b.split, b.limit) for b in config.evaluate.benchmarks] == [("val", "val", 50)]
    assert all(
        f"/{other}/" not in config.evaluate.benchmarks[0].path for other in ("test", "shifted", "pair")
    )
