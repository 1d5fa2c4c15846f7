"""The whole loop on a handful of scenes with the shipped checkpoints: every stage on real components,
resumable, the same rows however it is cut.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from spr.evaluation.metrics import accuracy_at_iou
from spr.lab.demo import CONFIG
from spr.scenes.files import SplitFiles, write_split
from spr.store.run import Run
from spr.types import Description, Prediction, Region, ScoredCandidate, TrainingPair
from tests.e2e.tools import STEPS, changed, config_of, line_of, shards_of, spr
from tests.unit.models.fault_server import Script, serve


def test_a_server_describes(world: dict[str, SplitFiles], tmp_path: Path) -> None:
    """Every sample is asked for once, a finished run asks for nothing, and the stage says that its samples
    cannot be drawn again.
    """
    path = config_of(world, tmp_path / "run")
    answers = Script(reply=lambda prompt, k: f"a cat<loc_{k}><loc_2><loc_700><loc_800>.")
    with serve(answers) as url:
        changes = changed("model.kind=endpoint", f"model.url={url}", "model.served_name=m")
        spr("run", str(path), "--until", "describe", *changes)
        stage = json.loads((tmp_path / "run" / "candidates" / "_stage.json").read_text())
        asked = sum(answers.seen.values())
        spr("run", str(path), "--until", "describe", *changes)
    rows = Run(str(tmp_path / "run")).read_stage(Description, "candidates")
    assert len(rows) == 4 * len({r.region_id for r in rows})
    assert asked == sum(answers.seen.values()) == 2 * len({r.region_id for r in rows})
    assert stage["notes"]["reproducible"] == "no: the server draws the samples"
    assert not (tmp_path / "run" / "journal").exists()


def test_rounds_and_the_evaluation_of_adapters_behind_servers(
    world: dict[str, SplitFiles], finished: tuple[Run, Path], tmp_path: Path
) -> None:
    """The adapter of a round is what the next one describes with, and what is evaluated: at two servers, each
    of which loads it once, from the run's own folder.
    """
    path = config_of(world, tmp_path / "run")

    said: dict[str, list[str]] = {}
    for row in finished[0].read_stage(Description, "candidates"):
        said.setdefault(row.prompt, []).append(row.text)

    def reply(prompt: str, k: int) -> str:
        texts = said.get(prompt, ["a cat<loc_100><loc_100><loc_400><loc_500>"])
        return texts[k % len(texts)]

    servers = [Script(loads="vllm", reply=reply), Script(loads="vllm", reply=reply)]
    with serve(servers[0]) as one, serve(servers[1]) as two:
        changes = changed(
            *("model.kind=endpoint", f"model.url=[{one}, {two}]", "model.served_name=m"),
            *("adapters={spr: {rounds: 2, epochs: 1}}", "pair.min_margin=0"),
        )
        spr("run", str(path), "--until", "evaluate", *changes)
        before = [len(server.requests) for server in servers]
        spr("run", str(path), "--until", "evaluate", *changes)
    run = Run(str(tmp_path / "run"))
    rounds = [run.path("adapter", "spr"), run.path("rounds", "spr", "2", "adapter", "spr")]
    asked: dict[str, set[str]] = {}
    for server in servers:
        assert list(server.adapters.values()) == rounds
        assert len(server.loaded) == 2
        for body in server.requests:
            model = server.adapters.get(body["model"], body["model"])
            asked.setdefault(model, set()).add(body["messages"][0]["content"][-1]["text"])
    described = {r.prompt for r in run.read_stage(Description, "candidates")}
    assert described & asked["m"]
    assert {r.prompt for r in run.read_stage(Description, "rounds", "spr", "2", "candidates")} <= asked[
        rounds[0]
    ]
    for name, model in {"base": "m", "spr": rounds[0], "spr-round-2": rounds[1]}.items():
        assert {r.question for r in run.read_stage(Prediction, "evaluation", "test", name)} <= asked[model]
    assert [len(server.requests) for server in servers] == before  # what is finished is not asked again


@pytest.mark.parametrize(
    ("server", "variant", "said"),
    [
        ("vllm", "lora", "loads no adapters while it runs"),
        ("vllm", "dora", "found dora, which the server that is asked with the adapter does not load"),
        ("other", "lora", "found 'other' with an adapter"),
    ],
)
def test_a_server_that_takes_no_adapter_is_told_before_anything_is_described(
    world: dict[str, SplitFiles],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    server: str,
    variant: str,
    said: str,
) -> None:
    script = Script()
    with serve(script) as url:
        changes = changed(
            "model.kind=endpoint",
            f"model.url={url}",
            "model.served_name=m",
            f"model.server={server}",
            f"train.lora_variant={variant}",
        )
        line = line_of(capsys, 2, "run", str(config_of(world, tmp_path / "run")), *changes)
    assert said in line
    assert not script.requests
    assert not (tmp_path / "run").exists()


def test_every_stage_leaves_its_rows(finished: tuple[Run, Path]) -> None:
    run, _ = finished
    candidates = run.read_stage(Description, "candidates")
    scored = run.read_stage(ScoredCandidate, "scores")
    assert len(candidates) == len(scored) > 0
    assert any(c.score.total is not None for c in scored)
    pairs = run.read_stage(TrainingPair, "pairs")
    assert pairs
    for pair in pairs:
        assert pair.chosen != pair.rejected
        assert pair.margin > 0
    for name in ("spr_paper", "spr"):
        assert run.exists("adapter", name, "adapter_model.safetensors")
    assert run.exists("config.yaml")
    assert run.exists("environment.json")


def test_the_demo_describes_and_scores_ten_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """configs/demo.yaml itself, on fewer scenes: the doctor lets it through, then eight candidates per
    region, all of them with both scores.
    """
    files = write_split(tmp_path, "pair", 10)
    data = (
        f"data.annotations={files.coco}",
        f"data.images={files.images}",
        f"run={tmp_path / 'run'}",
        "runtime.workers=1",
    )
    spr("run", str(CONFIG), "--until", "score", *changed(*data))
    assert "doctor: wrong" not in capsys.readouterr().err
    run = Run(str(tmp_path / "run"))
    summary = run.summary("scores")
    assert summary is not None
    assert summary.rows == 8 * len(run.read_stage(Region, "regions")) > 0
    assert summary.figures["spread_localization"] > 0.01
    scored = [c for c in run.read_stage(ScoredCandidate, "scores") if c.score.total is not None]
    assert len(scored) > 0.9 * summary.rows


def test_refinement_raises_the_localisation_score(finished: tuple[Run, Path]) -> None:
    """The point of refining: boxes that match a reference become that reference, up to the rounding of the
    notation.
    """
    run, _ = finished
    for c in run.read_stage(ScoredCandidate, "scores"):
        if c.score.localization is not None and c.refined_score.localization is not None:
            assert c.refined_score.localization >= c.score.localization - 0.02


def test_the_metrics_can_be_computed_again_from_the_predictions(finished: tuple[Run, Path]) -> None:
    run, _ = finished
    for model in ("base", "spr_paper", "spr"):
        rows = run.read_rows(Prediction, "evaluation", "test", model, "predictions.parquet")
        values = run.read_json("evaluation", "test", model, "metrics.json")["values"]
        for threshold, accuracy in accuracy_at_iou([r.iou for r in rows], (0.5, 0.7, 0.9)).items():
            assert values[f"acc@{threshold:g}"]["value"] == pytest.approx(accuracy)


def test_the_report_is_one_file_that_loads_nothing(finished: tuple[Run, Path]) -> None:
    run, _ = finished
    page = run.read_bytes("report.html").decode()
    assert ">Gallery<" in page
    assert "paper: Ferret-7B + SPR" in page
    assert page.count("<script") == 1  # ours
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_running_again_does_nothing(finished: tuple[Run, Path]) -> None:
    run, config = finished
    before = {
        p: p.stat().st_mtime_ns for p in Path(run.root).rglob("*") if p.is_file() and p.name != "report.html"
    }
    spr("run", str(config))
    after = {
        p: p.stat().st_mtime_ns for p in Path(run.root).rglob("*") if p.is_file() and p.name != "report.html"
    }
    assert after == before


def test_a_killed_run_goes_on_to_the_same_rows(finished: tuple[Run, Path], tmp_path: Path) -> None:
    """A kill leaves finished shards and perhaps a temporary file; nothing else. The rest is done again, byte
    for byte.
    """
    run, config = finished
    copy = tmp_path / "killed"
    shutil.copytree(run.root, copy, ignore=shutil.ignore_patterns("adapter", "evaluation", "report.html"))
    for folder in STEPS[1:]:
        (copy / folder / "_stage.json").unlink()
    (copy / "scores" / "part-00001.parquet").unlink(missing_ok=True)
    (copy / "candidates" / "part-00000.parquet").unlink()
    (copy / "candidates" / "part-00000.parquet.1234.tmp").write_bytes(b"half a file")
    spr("run", str(config), "--until", "pair", "--set", f"run={copy}")
    assert shards_of(Run(str(copy))) == shards_of(run)


@pytest.mark.parametrize("size", [1, 7, 256])
def test_shards_of_any_size_hold_the_same_texts(
    finished: tuple[Run, Path], tmp_path: Path, size: int
) -> None:
    run, config = finished
    other = Run(str(tmp_path / "other"))
    spr(
        "run",
        str(config),
        "--until",
        "pair",
        "--set",
        f"run={other.root}",
        "--set",
        f"runtime.shard_size={size}",
    )
    assert [c.text for c in other.iter_stage(Description, "candidates")] == [
        c.text for c in run.iter_stage(Description, "candidates")
    ]
    assert other.read_stage(TrainingPair, "pairs") == run.read_stage(TrainingPair, "pairs")


def test_an_ablation_shares_what_does_not_depend_on_the_value(
    finished: tuple[Run, Path], tmp_path: Path
) -> None:
    """Another lambda needs no description, no score and no base answer again; the value that the run has
    needs nothing; running again does nothing.
    """
    run, config = finished
    copy = tmp_path / "copy"
    shutil.copytree(run.root, copy)
    adapters = json.dumps({"spr": {"sft_weight": 1.0, "rejected_coordinates": "none"}})
    command = (
        "ablate",
        str(config),
        "--vary",
        "pairing.lambda=0.8,0.5",
        "--set",
        f"run={copy}",
        "--set",
        f"adapters={adapters}",
    )
    spr(*command)
    found = copy / "ablations" / "pairing.lambda"
    assert [p.name for p in sorted((found / "0.8").iterdir())] == [
        "config.yaml",
        "environment.json",
        "evaluation",
        "report.html",
    ]
    assert [p.name for p in sorted((found / "0.5").iterdir()) if p.is_dir()] == [
        "adapter",
        "evaluation",
        "pairs",
    ]
    assert [p.name for p in sorted((found / "0.5" / "evaluation" / "test").iterdir())] == [
        "comparison.json",
        "spr",
    ]

    pairs = Run(str(found / "0.5")).read_stage(TrainingPair, "pairs")
    assert pairs
    for pair in pairs:
        score = pair.chosen_score
        assert score.total is not None
        assert score.semantic is not None
        assert score.localization is not None
        assert score.total == pytest.approx(0.5 * score.semantic + 0.5 * score.localization)

    table = json.loads((found / "table.json").read_text())["test"]
    assert [(row["setting"], row["model"]) for row in table] == [("", "base"), ("0.8", "spr"), ("0.5", "spr")]
    for row, model in zip(table, ("base", "spr"), strict=False):
        assert row["values"] == run.read_json("evaluation", "test", model, "metrics.json")["values"]
    assert (found / "table.md").read_text().count("\n| 0.") == 2
    assert "<polyline" in (found / "ablation.html").read_text()

    before = {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()}
    spr(*command)
    assert {p: p.stat().st_mtime_ns for p in copy.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.dialcet=florence2", ("dialcet", "did you mean 'dialect'")),
        ("model.dialect=florence", ("florence", "did you mean 'florence2'")),
        ("data.images=/nowhere/images", ("/nowhere/images",)),
        (f"data.annotations={__file__}", (__file__, "JSON")),
        ("describe.samples=many", ("describe.samples", "many")),
        ("adapters.spr.los=ipo", ("adapters.spr.los", "did you mean 'loss'")),
        ("adapters.base={}", ("adapters", "'base'")),
        ("pairing.lamda=1", ("pair.lamda", "did you mean 'lam'")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    finished: tuple[Run, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    override: str,
    words: tuple[str, ...],
) -> None:
    line = line_of(capsys, 2, "run", str(finished[1]), "--set", f"run={tmp_path / 'r'}", "--set", override)
    for word in words:
        assert word in line


def test_a_changed_setting_of_a_finished_stage_is_refused_by_name(
    finished: tuple[Run, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(capsys, 2, "describe", str(finished[1]), "--set", "describe.temperature=0.5")
    assert "describe.temperature" in line
    assert "--overwrite describe" in line


def test_a_server_is_not_asked_for_an_adapter_that_it_does_not_have(
    finished: tuple[Run, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """It would answer with its own weights, and the table would say that training changed nothing."""
    line = line_of(
        capsys,
        2,
        "evaluate",
        str(finished[1]),
        *changed("model.kind=endpoint", "model.url=http://127.0.0.1:9/v1", "model.server=transformers"),
    )
    assert "spr train --merge" in line


def test_an_export_says_how_the_runs_own_training_is_started(
    finished: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each adapter's training; what the other trainer cannot be told is printed."""
    run, config = finished
    words = ("export", str(config), "--format")
    assert "expected one of llava1_5_hf, llava_llama3_hf, pixtral" in line_of(
        capsys, 2, *words, "ms-swift", "--out", str(tmp_path / "no")
    )
    assert not (tmp_path / "no").exists()
    spr(*words, "ms-swift", "--out", str(tmp_path / "swift"), "--template", "llava1_5_hf", "--adapter", "spr")
    assert "warning: ms-swift cannot be told train.rejected_coordinates: none" in capsys.readouterr().err
    settings = yaml.safe_load((tmp_path / "swift" / "train.yaml").read_text())
    assert (settings["learning_rate"], settings["num_train_epochs"], settings["rpo_alpha"]) == (1e-4, 2, 1.0)
    pairs = len(run.read_stage(TrainingPair, "pairs"))
    assert len((tmp_path / "swift" / "pairs.jsonl").read_text().splitlines()) == pairs
    spr(*words, "trl", "--out", str(tmp_path / "trl"), "--adapter", "spr_paper")
    assert f"{pairs} pairs" in capsys.readouterr().err
    readme = (tmp_path / "trl" / "README.md").read_text()
    assert "- loss: dpo, beta 0.1" in readme
    assert "adapter `spr_paper`" in readme


def test_a_single_stage_before_its_inputs_says_what_to_run(
    finished: tuple[Run, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = line_of(capsys, 2, "score", str(finished[1]), "--set", f"run={tmp_path / 'empty'}")
    assert "run `spr describe` first" in line
