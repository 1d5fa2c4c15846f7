"""`train` on a tiny LLaVA: what a user gets, and the properties that make it trustworthy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spr.dialects import get_dialect
from spr.errors import ConfigError, DataError, FoundWrongError, StaleRunError
from spr.models.loading import auto_processor, load_processor
from spr.store.progress import Progress
from spr.training import encode, masks, policy, prepare, trainer
from spr.training.config import Share, TrainConfig, TrainResult
from spr.training.encode import Encoder
from spr.training.families import family_of
from spr.training.features import FeatureStore
from spr.training.figures import warnings_of
from spr.training.loop import PairTrainer, check_arguments, last_checkpoint
from spr.training.packing import Row
from spr.training.plan import is_held_out, units_of
from spr.training.trainer import train
from spr.types import Checkpoint, TrainingPair
from tests.contract.checkpoints import build
from tests.unit.training.data import FAST, load_image, made_pairs

PAIRS, WEIGHTS = made_pairs(6), "adapter_model.safetensors"
Weights = Mapping[str, torch.Tensor]


@pytest.fixture
def trained(llava: str, tmp_path: Path) -> Callable[..., tuple[Weights, list[dict[str, Any]], TrainResult]]:
    def run(
        name: str = "out", pairs: list[TrainingPair] = PAIRS, **changes: Any
    ) -> tuple[Weights, list[dict[str, Any]], TrainResult]:
        out = tmp_path / name
        result = train(pairs, llava, str(out), replace(FAST, **changes), load_image, get_dialect("ferret"))
        history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
        return load_file(out / "adapter_model.safetensors"), history, result

    return run


def difference(a: Weights, b: Weights) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def test_a_fresh_adapter_costs_ln_2_and_learns(trained: Any) -> None:
    _, history, result = trained(epochs=10)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert history[-1]["margin"] > history[0]["margin"] + 0.1
    assert history[-1]["accuracy"] == 1.0
    assert [line["step"] for line in history] == list(range(1, 21))
    assert result.steps == 20
    assert result.layout == "causal"
    assert result.packed_difference is not None
    assert result.packed_difference < 1e-5
    assert result.warnings == ()
    assert result.images_encoded == 3  # once each, in ten epochs and the reference pass


def test_eager_attention_learns_the_same(trained: Any) -> None:
    """Eager attention adds its mask to the logits: a mask of True and False would be read as 1 and 0, and
    everything would see everything.
    """
    weights, _, _ = trained("sdpa")
    eager, _, result = trained("eager", attention="eager")
    assert result.layout == "causal"
    assert result.packed_difference < 1e-5
    assert result.warnings == ()
    assert difference(weights, eager) < 1e-4


def test_same_seed_same_bytes_and_packing_changes_nothing(trained: Any) -> None:
    """The last step of the epoch has two pairs, not four: the mean is over the step's pairs, however many
    forward passes they take.
    """
    a = trained("a")[0]
    assert difference(a, trained("again")[0]) == 0.0
    assert difference(a, trained("one-by-one", tokens=1)[0]) < 1e-5
    assert difference(a, trained("plain", share="none")[0]) < 1e-5
    assert difference(a, trained("pair", share="pair")[0]) < 1e-5
    assert difference(a, trained("weighted", coordinate_weight=2.0)[0]) > 1e-4  # and this test can fail


def test_every_loss_trains(trained: Any) -> None:
    for name in ("ipo", "robust", "length_normalized", "sft"):
        _, history, _ = trained(name, loss=name, label_smoothing=0.1 if name == "robust" else 0.0, epochs=4)
        assert np.mean([h["loss"] for h in history[-2:]]) < history[0]["loss"], name
    assert history[0]["margin"] is None  # SFT has no rejected answers


def test_margins_and_weights_reach_the_loss(trained: Any) -> None:
    """At the start beta h = 0, so an offset of scale x margin costs -log sigmoid(-scale x margin): known
    without training.
    """
    pairs = [replace(PAIRS[0], margin=0.5)]
    _, history, _ = trained(pairs=pairs, margin_scale=2.0)
    assert history[0]["loss"] == pytest.approx(math.log1p(math.exp(1.0)), abs=1e-6)


# PEFT asks transformers by its old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_the_adapter_is_a_normal_peft_adapter(trained: Any, llava: str, tmp_path: Path) -> None:
    """It loads with PeftModel, sits on the language model only, and merging gives the same logits."""
    from peft import PeftModel

    from spr.models.loading import load_mllm
    from spr.training.merge import merge_adapter

    weights, _, _ = trained("out", epochs=2)
    assert all(".language_model." in name for name in weights)
    assert not any("lm_head" in name or "vision" in name or "projector" in name for name in weights)
    merge_adapter(llava, str(tmp_path / "out"), str(tmp_path / "merged"))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        base = load_mllm(llava)[0]
        before = base(input_ids=ids).logits
        tuned = PeftModel.from_pretrained(base, tmp_path / "out")(input_ids=ids).logits
        merged = load_mllm(str(tmp_path / "merged"))[0](input_ids=ids).logits
    torch.testing.assert_close(merged, tuned, atol=1e-5, rtol=0)
    assert float((tuned - before).abs().max()) > 1e-3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "6 preference pairs" in card
    assert "torch" in card


def test_dropped_pairs_are_counted_with_their_reason(trained: Any) -> None:
    bad = [
        replace(PAIRS[0], pair_id="b1", image="broken"),
        replace(PAIRS[0], pair_id="b2", chosen="x", rejected="x"),
    ]
    long = replace(PAIRS[0], pair_id="b3", chosen="cat " * 200)
    _, _, result = trained(pairs=[*bad, long, *PAIRS], max_length=200)
    assert result.dropped == {"same_answer": 1, "too_long": 1, "unreadable_image": 1}
    assert result.pairs == 6


def test_no_pair_is_one_line(trained: Any) -> None:
    with pytest.raises(DataError, match="no pair is left to train on \\(unreadable_image: 1\\)"):
        trained(pairs=[replace(PAIRS[0], image="broken")])


class Kill(Progress):
    """Stops the process' work after so many pairs, as a kill would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [2, 10, 17])  # in the reference pass · in the first steps · later
def test_resumed_is_uninterrupted(llava: str, trained: Any, tmp_path: Path, after: int) -> None:
    expected, history, _ = trained("whole", epochs=4)
    out = tmp_path / "killed"
    config = replace(FAST, epochs=4, save_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(PAIRS, llava, str(out), config, load_image, progress=Kill(after))
    train(PAIRS, llava, str(out), config, load_image)
    assert difference(load_file(out / "adapter_model.safetensors"), expected) == 0.0
    again = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [(h["step"], h["loss"]) for h in again] == [(h["step"], h["loss"]) for h in history]


def test_resume_opens_no_image_of_steps_that_are_done(llava: str, tmp_path: Path) -> None:
    out, seen = str(tmp_path / "out"), []
    config = replace(FAST, epochs=1, batch=2, save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        # reference: 6, then two of three steps
        train(PAIRS, llava, out, config, load_image, progress=Kill(6 + 3))

    def load(path: str) -> Any:
        seen.append(path)
        return load_image(path)

    train(PAIRS, llava, out, config, load)
    assert (
        len(seen) == 1 + 2 + 1
        # one step is saved, two are left, and each has one image; the check before looks at one,
        # once packed and twice plain, with two questions
    )


@pytest.mark.parametrize("name", ["llava", "florence2"])
def test_an_image_is_loaded_and_encoded_once(name: str, tmp_path: Path) -> None:
    """For its tokens, the reference and the steps: loading and preprocessing cost as much as a step of a 3B
    model. Florence-2's encoder reads image and question together, so once per pair here.
    """
    folder, seen = str(build(name, tmp_path / "model")), list[str]()
    pairs = made_pairs(24)

    def load(path: str) -> Any:
        seen.append(path)
        return load_image(path)

    result = train(pairs, folder, str(tmp_path / "out"), replace(FAST, epochs=2, lora_r=1), load)
    images = {pair.image for pair in pairs}
    assert set(seen) == images
    if name == "florence2":
        assert result.images_encoded == len(seen) == len(pairs)
    else:
        assert result.images_encoded == len(images)
        assert len(seen) == len(images) + 2  # the check's plain rows


def test_pictures_that_do_not_fit_into_memory_change_nothing(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the pictures that are ready nor their features: then they are made again."""
    whole, _, _ = trained("whole", pairs=made_pairs(12), epochs=2)
    monkeypatch.setattr(encode, "REMEMBERED_MB", 0.01)
    nothing = {"feature_cache_mb": 0, "feature_cache_disk_mb": 0}
    small, _, result = trained("small", pairs=made_pairs(12), epochs=2, **nothing)
    assert result.images_encoded > 6
    assert difference(whole, small) == 0.0


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "florence2"])
def test_features_that_go_to_files_come_back_as_they_were(name: str, tmp_path: Path) -> None:
    """Lists of tensors, those of deeper layers, and the states of an encoder; also after a kill. Nothing of
    them is left in the end.
    """
    folder, pairs = str(build(name, tmp_path / "model")), made_pairs(12)
    config = replace(FAST, epochs=2, feature_cache_mb=0, save_steps=1)
    found, counts = [], []
    for disk, stop in ((0, None), (64, None), (64, Kill(12 + 9))):
        out = tmp_path / f"{disk}{stop is not None}"
        settings = replace(config, feature_cache_disk_mb=disk)
        if stop is not None:
            with pytest.raises(KeyboardInterrupt):
                train(pairs, folder, str(out), settings, load_image, progress=stop)
        counts.append(train(pairs, folder, str(out), settings, load_image).images_encoded)
        found.append(load_file(out / "adapter_model.safetensors"))
        assert not (out / "state" / "features").exists()
    assert counts[0] > counts[1] == (12 if name == "florence2" else 6)
    assert counts[2] == 0
    assert difference(found[0], found[1]) == difference(found[0], found[2]) == 0.0


def test_the_folder_shows_pictures_as_the_training_did(llava: str, tmp_path: Path) -> None:
    """Whoever has the adapter has the processor that its coordinates belong to, with the run's settings."""
    checkpoint, out = Checkpoint(llava, processor={"image_mean": [0.1, 0.2, 0.3]}), tmp_path / "out"
    train(PAIRS, checkpoint, str(out), FAST, load_image)
    ours, theirs = load_processor(checkpoint), auto_processor.from_pretrained(out)
    asked: dict[str, Any] = {"text": "<image> a", "images": [load_image("a")], "return_tensors": "pt"}
    for name, value in ours(**asked).items():
        assert torch.equal(value, theirs(**asked)[name]), name


def test_the_notation_that_finds_coordinates_is_part_of_the_reference(llava: str, tmp_path: Path) -> None:
    """Where they weigh more; else nothing is read from the answers."""
    out, weighted = str(tmp_path / "out"), replace(FAST, coordinate_weight=2.0)
    train(PAIRS, llava, str(tmp_path / "plain"), FAST, load_image, get_dialect("ferret"))
    train(PAIRS, llava, str(tmp_path / "plain"), FAST, load_image, get_dialect("qwen2_5_vl"))
    train(PAIRS, llava, out, weighted, load_image, get_dialect("ferret"))
    with pytest.raises(StaleRunError, match="changed: dialect"):
        train(PAIRS, llava, out, weighted, load_image, get_dialect("qwen2_5_vl"))


def test_another_picture_under_the_same_name_is_refused(llava: str, tmp_path: Path) -> None:
    """Its reference would be another one's: the first loss was 0.6891, and nothing was said."""
    out, config = str(tmp_path / "out"), replace(FAST, batch=2, save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        train(PAIRS, llava, out, config, load_image, progress=Kill(6 + 3))
    with pytest.raises(StaleRunError, match=r"^image\d: found another picture than the one that the refer"):
        train(PAIRS, llava, out, config, lambda path: load_image(path + "!"))


def test_another_picture_is_refused_also_in_the_reference_pass(
    llava: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One half of an image's pairs was prepared before the kill, the other sees another picture after it."""
    monkeypatch.setattr(prepare, "SHARD", 1)
    out = str(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        train(PAIRS, llava, out, FAST, load_image, progress=Kill(1))
    with pytest.raises(StaleRunError, match=r"^image0: found another picture"):
        train(PAIRS, llava, out, FAST, lambda path: load_image(path + "!"))


def test_a_picture_that_is_gone_says_so_when_it_is_needed(
    llava: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there for the reference; it is looked for ahead of the step, in a thread."""
    seen: list[str] = []

    def load(path: str) -> Any:
        seen.append(path)
        return load_image("broken" if seen.count(path) > 1 and path == PAIRS[4].image else path)

    config = replace(FAST, batch=2, lora_parts=("language", "tower"))  # features are made in every step
    monkeypatch.setattr(encode, "REMEMBERED", 1)
    with pytest.raises(DataError, match="broken: not an image"):
        train(PAIRS, llava, str(tmp_path / "out"), config, load)


def test_a_half_written_checkpoint_is_not_used(tmp_path: Path) -> None:
    for step, text in ((2, '{"global_step": 2}'), (4, '{"global_step"')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-4").exists()


def test_a_stale_reference_is_refused_with_the_reason(trained: Any, llava: str, tmp_path: Path) -> None:
    trained("out")
    with pytest.raises(StaleRunError, match="changed: pairs"):
        train(PAIRS[:5], llava, str(tmp_path / "out"), FAST, load_image)
    with pytest.raises(StaleRunError, match="changed: dtype"):
        train(PAIRS, llava, str(tmp_path / "out"), replace(FAST, dtype="float64"), load_image)


def test_cached_reference_is_recomputed_reference(trained: Any, tmp_path: Path) -> None:
    """The cache holds what a run without sharing, one row per forward pass, computes anew."""
    trained("packed")
    trained("plain", share="none", tokens=1)
    a, b = (np.load(tmp_path / name / "state" / "part-00000.npz") for name in ("packed", "plain"))
    for name in ("chosen", "rejected"):
        assert np.array_equal(a[f"{name}_ids"], b[f"{name}_ids"])
        np.testing.assert_allclose(a[name], b[name], atol=1e-5)


def test_a_starting_adapter_is_the_reference(trained: Any, llava: str, tmp_path: Path) -> None:
    """Going on from an adapter, the first loss is ln 2 again, because the policy is compared with where it
    starts.
    """
    first, _, _ = trained("first", epochs=3)
    out = tmp_path / "second"
    result = train(PAIRS, llava, str(out), FAST, load_image, adapter=str(tmp_path / "first"))
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert result.reference == "starting adapter"
    assert difference(load_file(out / "adapter_model.safetensors"), first) > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 0.0}, "train.beta: found 0.0"),
        ({"label_smoothing": 0.1}, "train.label_smoothing: found 0.1"),
        ({"loss": "robust"}, "train.label_smoothing: found 0.0"),
        ({"batch": 0}, "train.batch: found 0"),
    ],
)
def test_impossible_values_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**change)


def test_nothing_of_ours_stays_in_the_model(llava: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After training the model answers as before: its head is its own again."""
    models: list[Any] = []
    load = trainer.load_mllm
    monkeypatch.setattr(trainer, "load_mllm", lambda *a, **k: models.append(load(*a, **k)) or models[0])
    train(PAIRS, llava, str(out), FAST, load_image)
    head = models[0][0].get_output_embeddings()
    assert head.forward.__func__ is torch.nn.Linear.forward


@pytest.mark.parametrize("share", ["tree", "none"])
def test_a_model_that_does_not_see_the_image_is_not_trained(llava: str, out: Path, share: Share) -> None:
    """A projector of zeros, as a checkpoint with a forgotten part would have."""
    from spr.models.loading import load_mllm, save_checkpoint

    model, processor = load_mllm(llava)
    with torch.no_grad():
        for p in model.model.multi_modal_projector.parameters():
            p.zero_()
    save_checkpoint(model, processor, out.parent / "blind")
    with pytest.raises(FoundWrongError, match="does not see the image"):
        train(PAIRS, str(out.parent / "blind"), str(out), replace(FAST, share=share), load_image)
    assert not (out / "history.jsonl").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_mask_that_is_taken_in_another_way_stops_the_training(
    llava: str, out: Path, dtype: Literal["float32", "bfloat16"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every answer sees all that stands before it in its row, as in a version that ignores our mask. It would
    cost hours, and the result would be wrong.
    """
    config = replace(FAST, dtype=dtype)
    assert train(PAIRS, llava, str(out), config, load_image).packed_difference is not None

    def causal(rows: Sequence[Row], length: int, *_: Any) -> torch.Tensor:
        return torch.ones(len(rows), length, length, dtype=torch.bool).tril()

    monkeypatch.setattr(masks, "seen", causal)
    wrong = out.parent / "wrong"
    with pytest.raises(FoundWrongError, match=r"packed rows differ .* set train\.share: none"):
        train(PAIRS, llava, str(wrong), config, load_image)
    assert not (wrong / "history.jsonl").exists()
    train(PAIRS, llava, str(out.parent / "plain"), replace(config, share="none"), load_image)


# PEFT asks transformers by its old name
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_held_out_images_are_measured_and_not_trained_on(
    trained: Any, llava: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss on them is that of plain rows under the adapter. They are measured once per step."""
    pairs, measured, evaluate = made_pairs(12), list[int](), PairTrainer.evaluate

    def counted(self: PairTrainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        measured.append(self.state.global_step)
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(PairTrainer, "evaluate", counted)
    _, history, result = trained(pairs=pairs, epochs=4, held_out=0.5, save_steps=2)
    held = [p for p in pairs if is_held_out(p.image, 0.5)]
    assert 0 < len(held) < len(pairs)
    assert result.pairs == len(pairs) - len(held)
    lines = [json.loads(line) for line in (tmp_path / "out" / "held_out.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted({*range(2, result.steps + 1, 2), result.steps})
    assert measured == [line["step"] for line in lines]
    assert all(line["pairs"] == len(held) for line in lines)
    assert result.held_out == lines[-1]
    assert history[-1]["margin"] > lines[-1]["margin"] > 0.0
    rest = [p for p in pairs if p not in held]
    assert (
        difference(trained("rest", rest, epochs=4)[0], trained("out", pairs, epochs=4, held_out=0.5)[0]) == 0
    )
    assert lines[-1]["loss"] == pytest.approx(loss_of(held, llava, tmp_path / "out"), abs=1e-5)


def loss_of(pairs: list[TrainingPair], model: str, adapter: Path) -> float:
    """DPO's loss of an adapter against its base, from plain rows."""
    from peft import PeftModel

    from spr.models.loading import load_mllm

    base, processor = load_mllm(model)
    tuned, encoder = PeftModel.from_pretrained(base, adapter), Encoder(base, processor, load_image)
    plain = family_of(base, "none")
    units = units_of([encoder.encode(p) for p in pairs], plain, "none", 10_000)
    with (
        torch.no_grad(),
        closing(policy.Policy(base, plain, encoder, policy.Images(base, encoder, FeatureStore(0)))) as asked,
    ):
        now = [float(answer.sum()) for answer in asked.log_probs(tuned, units)]
        with tuned.disable_adapter():
            before = [float(answer.sum()) for answer in asked.log_probs(tuned, units)]
    ratios = [a - b for a, b in zip(now, before, strict=True)]
    gaps = [chosen - rejected for chosen, rejected in zip(ratios[::2], ratios[1::2], strict=True)]
    return sum(math.log1p(math.exp(-FAST.beta * gap)) for gap in gaps) / len(gaps)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 1}, r"max_steps: found a setting that follows from train\.epochs, expected it there"),
        ({"bf16": True}, r"bf16: found a setting that follows from train\.autocast, or train\.dtype"),
        ({"learning_speed": 1}, r"'learning_speed' \(did you mean 'learning_rate'\?\)$"),
        (
            {"eval_strategy": "steps"},
            r"eval_strategy: found no pairs to evaluate on, expected train\.held_out",
        ),
        ({"report_to": "wandbb"}, r"report_to: .*'wandbb' \(did you mean 'wandb'\?\)"),
        ({"report_to": ["comet_ml"]}, r"report_to: found 'comet_ml', whose package is not installed"),
    ],
)
def test_a_wrong_trainer_argument_is_one_line(
    llava: str, out: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(PAIRS, llava, str(out), replace(FAST, trainer=settings), load_image)


@pytest.mark.parametrize(
    ("environment", "autocast", "message"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, False, "^ACCELERATE_MIXED_PRECISION=bf16: the reference"),
        ({"ACCELERATE_USE_FSDP": "true"}, True, r"^train\.autocast with sharded weights: the reference"),
    ],
)
def test_a_precision_in_which_the_reference_is_not_computed_is_refused(
    environment: dict[str, str], autocast: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the first step was 0.6914 under accelerate's bf16, not ln 2."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        check_arguments(replace(FAST, autocast=autocast))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([{"loss": 0.69, "chosen_shift": 0.0}], []),
        ([{"loss": 0.9, "chosen_shift": 0.0}], ["the loss starts at 0.9000, not at ln 2"]),
        (
            [{"loss": 0.69, "chosen_shift": 0.0}, {"loss": 0.1, "chosen_shift": -60.0}],
            ["the chosen answers lost 60.0 nats"],
        ),
        (
            [
                {"loss": 0.69, "chosen_shift": 0.0},
                *[{"loss": 0.8, "chosen_shift": 0.0, "accuracy": 0.2}] * 21,
            ],
            ["fewer than half of the pairs"],
        ),
    ],
)
def test_warnings_name_the_usual_cause(lines: list[dict[str, float]], expected: list[str]) -> None:
    history = [{"step": i + 1, "chosen": -100.0, "accuracy": 1.0, **line} for i, line in enumerate(lines)]
    found = warnings_of(history, TrainConfig(), ended=True)  # type: ignore[arg-type]
    assert len(found) == len(expected)
    for text, start in zip(found.values(), expected, strict=True):
        assert start in text
