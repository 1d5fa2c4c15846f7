"""`train` on a tiny LLaVA: what a user gets, and the properties that make it trustworthy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spr.dialects import get_dialect
from spr.errors import ConfigError, DataError, StaleRunError
from spr.store.progress import Progress
from spr.training import trainer
from spr.training.config import TrainConfig, TrainResult
from spr.training.figures import warnings_of
from spr.training.loop import last_checkpoint
from spr.training.trainer import train
from spr.types import TrainingPair
from tests.unit.training.data import FAST, load_image, made_pairs

PAIRS = made_pairs(6)
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
        # once packed and twice plain
    )


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


def test_unknown_trainer_arguments_are_one_line(llava: str, out: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"train\.trainer\.max_steps: found a setting that follows from train\.batch"
    ):
        train(PAIRS, llava, str(out), replace(FAST, trainer={"max_steps": 1}), load_image)
    with pytest.raises(ConfigError, match=r"'learning_speed' \(did you mean 'learning_rate'\?\)$"):
        train(PAIRS, llava, str(out), replace(FAST, trainer={"learning_speed": 1}), load_image)


def test_nothing_of_ours_stays_in_the_model(llava: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After training the model answers as before: its head is its own again."""
    models: list[Any] = []
    load = trainer.load_mllm
    monkeypatch.setattr(trainer, "load_mllm", lambda *a, **k: models.append(load(*a, **k)) or models[0])
    train(PAIRS, llava, str(out), FAST, load_image)
    head = models[0][0].get_output_embeddings()
    assert head.forward.__func__ is torch.nn.Linear.forward


def test_a_model_that_does_not_see_the_image_is_warned_of(llava: str, tmp_path: Path) -> None:
    """A projector of zeros, as a checkpoint with a forgotten part would have."""
    from spr.models.loading import load_mllm, save_checkpoint

    model, processor = load_mllm(llava)
    with torch.no_grad():
        for p in model.model.multi_modal_projector.parameters():
            p.zero_()
    save_checkpoint(model, processor, tmp_path / "blind")
    said: list[str] = []

    class Listener(Progress):
        def tell(self, message: str) -> None:
            said.append(message)

    result = train(
        PAIRS[:2], str(tmp_path / "blind"), str(tmp_path / "out"), FAST, load_image, progress=Listener()
    )
    assert "does not see the image" in result.warnings[0]
    assert said == [f"warning: {text}" for text in result.warnings]
    assert "does not see the image" in (tmp_path / "out" / "README.md").read_text()


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
    found = warnings_of(history, TrainConfig())  # type: ignore[arg-type]
    assert len(found) == len(expected)
    for text, start in zip(found, expected, strict=True):
        assert start in text
