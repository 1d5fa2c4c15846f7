"""Ablations: a value reaches exactly the folders that depend on it, and everything else is shared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from spr.errors import ConfigError
from spr.run import ablate
from spr.run.ablate import Varied, folder_name, plan, settings_of, varied
from spr.run.depends import folders
from spr.run.wiring import Config, load_config
from spr.store.progress import Progress
from spr.store.run import Run, SharingRun
from spr.store.workers import Job

STAGES = ["index", "regions", "candidates", "scores", "pairs"]
BOTH = ["adapter/spr", "adapter/paper"]
ANSWERS = ["evaluation/test/base", "evaluation/test/spr", "evaluation/test/paper"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    text = {
        "run": "run",
        "data": {"format": "coco", "annotations": "a.json", "images": "images"},
        "model": {"folder": "m", "dialect": "florence2"},
        "adapters": {"spr": {"beta": 0.2}, "paper": {}},
        "evaluate": {
            "benchmarks": [{"name": "test", "protocol": "rec", "format": "mdetr", "path": "b.json"}]
        },
    }
    file.write_text(yaml.safe_dump(text))
    return file


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("data.annotations=b.json", [*STAGES, *BOTH, *ANSWERS[1:]]),
        ("data.where=height > 10", [*STAGES[1:], *BOTH, *ANSWERS[1:]]),
        ("describe.samples=3", [*STAGES[2:], *BOTH, *ANSWERS[1:]]),
        ("score.detector_side=none", ["scores", "pairs", *BOTH, *ANSWERS[1:]]),
        ("pairing.lambda=0.5", ["pairs", *BOTH, *ANSWERS[1:]]),
        ("train.batch=8", [*BOTH, *ANSWERS[1:]]),
        ("train.beta=0.3", ["adapter/paper", "evaluation/test/paper"]),  # spr has its own
        ("adapters.spr.seed=5", ["adapter/spr", "evaluation/test/spr"]),
        ("evaluate.limit=5", ANSWERS),
        ("evaluate.bootstrap=5", ANSWERS),
        ("model.dtype=bfloat16", [*STAGES[2:], *BOTH, *ANSWERS]),
        ("model.concurrency=2", []),
        ("runtime.workers=2", []),
        ("label=x", []),
    ],
)
def test_a_value_changes_what_depends_on_it_and_nothing_else(
    path: Path, override: str, changed: list[str]
) -> None:
    before, after = folders(load_config(path)), folders(load_config(path, [override]))
    assert sorted("/".join(f) for f in before if before[f] != after[f]) == sorted(changed)


def test_a_second_round_leaves_the_first_adapter_as_it_is(path: Path) -> None:
    once, twice = folders(load_config(path)), folders(load_config(path, ["adapters.spr.rounds=2"]))
    assert {"/".join(f) for f in twice.keys() - once.keys()} == {"rounds/spr", "evaluation/test/spr-round-2"}
    assert all(twice[f] == digest for f, digest in once.items())


@pytest.mark.parametrize(
    ("text", "values", "why"),
    [
        ("pairing.lambda=0,0.5", ("0", "0.5"), "numbers"),
        ("score.detector_side=none, reference", ("none", "reference"), "words"),
        (
            "describe.templates=[plain],[plain, crop]",
            ('["plain"]', '["plain", "crop"]'),
            "lists: a comma inside is no separator",
        ),
        ("train.max_length=null,512", ("null", "512"), "nothing is a value"),
        ("train.learning_rate=1e-4", ("1e-4",), "one value, as it was written"),
    ],
)
def test_values_are_read_as_yaml(text: str, values: tuple[str, ...], why: str) -> None:
    assert varied(text) == Varied(text.partition("=")[0], values), why


@pytest.mark.parametrize("text", ["pairing.lambda", "pairing.lambda=", "=1", "a=[1", "a=1,1"])
def test_no_values_are_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match="--vary"):
        varied(text)


def test_variants_read_from_the_run_or_from_the_first_that_has_it(path: Path) -> None:
    base = load_config(path)
    grid = settings_of(
        path, [varied("score.detector_side=none,reference"), varied("pairing.lambda=0.5,0.8")], []
    )
    assert list(grid) == [
        f"score.detector_side={s} pairing.lambda={v}" for s in ("none", "reference") for v in ("0.5", "0.8")
    ]
    first, second, third, fourth = plan(base, ("ablations", "x"), grid)

    def where(run: Run, *folder: str) -> str:
        return run.path(*folder).removeprefix(f"{base.run}/")

    own = "ablations/x/score.detector_side=none_pairing.lambda="
    assert where(first.run, "candidates") == "candidates"
    assert where(first.run, "scores", "_stage.json") == f"{own}0.5/scores/_stage.json"
    assert where(second.run, "scores") == f"{own}0.5/scores"  # the first that has it
    assert where(second.run, "pairs") == f"{own}0.8/pairs"
    assert where(third.run, "scores") == "scores"  # the run's own value
    assert where(fourth.run, "adapter", "spr") == "adapter/spr"  # the run itself
    # compared with what is asked for here
    assert where(fourth.run, "evaluation", "test", "comparison.json").startswith("ablations/")
    assert fourth.config.run.endswith("reference_pairing.lambda=0.8")


def test_values_on_which_nothing_depends_are_a_mistake(path: Path) -> None:
    """`train.learning_rate` where every adapter sets its own would give equal rows, and look like a
    finding.
    """
    settings = settings_of(path, [varied("runtime.workers=1,2")], [])
    with pytest.raises(ConfigError, match="2: found the same as 1"):
        plan(load_config(path), ("ablations",), settings)


@pytest.mark.parametrize(
    "finished", [(), ("0.5 spr",), ("0.5 spr", "0.5 paper"), ("0.5 spr", "0.5 paper", "0.8 spr")]
)
def test_a_killed_ablation_goes_on_with_as_many_threads(
    path: Path, monkeypatch: pytest.MonkeyPatch, finished: tuple[str, ...]
) -> None:
    """The last adapter that was missing was trained by the command itself, with the threads of all workers:
    other roundings than in a run that nobody killed.
    """
    trained = []

    class Crew(ablate.Workers):
        def work(self, job: Job[None, None]) -> None:
            trained.extend(t.label for task in job.tasks.values() for t in task.args[0])

    monkeypatch.setattr(ablate, "Workers", Crew)
    monkeypatch.setattr(ablate, "do_train", lambda *rest: None)
    monkeypatch.setattr(ablate.Training, "finished", property(lambda t: t.label in finished))
    overrides = ["runtime.workers=2", "train.device=cpu"]
    base = load_config(path, overrides)
    settings = settings_of(path, [varied("pairing.lambda=0.5,0.8")], overrides)
    ablate._train_all(base, plan(base, ("ablations",), settings), Progress())
    both = [f"{value} {name}" for value in ("0.5", "0.8") for name in ("spr", "paper")]
    assert sorted(trained) == sorted(set(both) - set(finished))


def test_two_values_never_share_a_folder(path: Path) -> None:
    settings = {"a b": load_config(path, ["seed=1"]), "a/b": load_config(path, ["seed=2"])}
    with pytest.raises(ConfigError, match="two settings whose folder"):
        plan(load_config(path), ("ablations",), settings)


@pytest.mark.parametrize(
    ("text", "name"), [("0.5", "0.5"), ("../x", "x"), ('["a", "b"]', "a_,_b"), ("/", "_"), ("..", "_")]
)
def test_a_value_is_never_a_path(text: str, name: str) -> None:
    assert folder_name(text) == name


def test_a_sharing_run_lists_what_stands_elsewhere(tmp_path: Path) -> None:
    other = Run(str(tmp_path / "other"))
    run = SharingRun(
        str(tmp_path / "own"),
        owners={("evaluation", "test", "base"): other, ("evaluation", "test", "gone"): other},
    )
    other.write_json({}, "evaluation", "test", "base", "metrics.json")
    run.write_json({}, "evaluation", "test", "spr", "metrics.json")
    assert run.folders("evaluation", "test") == ["base", "spr"]
    assert run.folders("evaluation") == ["test"]
    assert run.exists("evaluation", "test", "base", "metrics.json")
    run.remove("evaluation", "test", "spr")
    assert run.folders("evaluation", "test") == ["base"]


def test_names_in_the_paper_and_in_python_are_the_same_setting(path: Path) -> None:
    """`lambda` is no name in Python, so the field is `lam`; files and --set take both, never both at once."""
    changed = yaml.safe_load(path.read_text()) | {"pairing": {"lambda": 0.3}}
    path.write_text(yaml.safe_dump(changed))
    assert load_config(path).pair.lam == 0.3
    assert (
        load_config(path, ["pair.lam=0.4"]).pair.lam
        == load_config(path, ["pairing.lambda=0.4"]).pair.lam
        == 0.4
    )
    path.write_text(yaml.safe_dump(changed | {"pair": {}}))
    with pytest.raises(ConfigError, match="twice"):
        load_config(path)


def _seeded(config: Config, seed: int) -> Config:
    return replace(config, adapters={"spr": {"seed": seed}})


def test_a_seed_of_the_training_leaves_the_pairs_alone(path: Path) -> None:
    base = load_config(path)
    variants = plan(base, ("rows",), {f"seed{s}": _seeded(base, s) for s in (1, 2)})
    assert {v.run.path("pairs") for v in variants} == {f"{base.run}/pairs"}
    assert len({v.run.path("adapter", "spr") for v in variants}) == 2
