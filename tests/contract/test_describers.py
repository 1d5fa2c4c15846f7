"""One suite over all families: a config is enough to describe with any of them, and what is fast is also what
transformers itself answers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from spr.dialects import get_dialect
from spr.errors import ConfigError
from spr.models.families import DIALECTS, WHY_REQUIRED, dialect_for_checkpoint, model_type_of
from spr.models.hf_mllm import HFDescriber
from spr.models.inputs import Row
from spr.models.loading import load_processor
from spr.models.look import cropping
from spr.models.scripted import ScriptedDetector, ScriptedScorer
from spr.stages.describe import DescribeConfig, describe, queries_of
from spr.stages.scoring import ScoreConfig, score
from spr.types import Checkpoint, Description, Frame, Query, Region, RegionObject, Sampling
from tests.contract.checkpoints import FAMILIES, OTHERS
from tests.unit.models.conftest import load_noise

GREEDY = Sampling(n=1, temperature=0, max_new_tokens=8)
DRAWN = Sampling(n=2, temperature=1.0, top_p=0.9, max_new_tokens=8)
QUESTIONS = ("Where is the dog?", "Where is the leftmost cat next to the tree?", "detect cat")
FLORENCE = ("<OD>", "<CAPTION_TO_PHRASE_GROUNDING>a dog", "<OPEN_VOCABULARY_DETECTION>cat")
ONE_IMAGE = {"kosmos2", "florence2"}
# no hook for image features, or another cache than of keys and values: generate(), one prompt at a time
GENERATE = {*ONE_IMAGE, "qwen3_5"}
families = pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])


@pytest.fixture(scope="module")
def load(checkpoint: Callable[[str], str]) -> Callable[[str], HFDescriber]:
    return functools.cache(lambda name: HFDescriber(checkpoint(name), load_image=load_noise))


def queries(name: str, group: str = "g", image: str = "1@70x56") -> list[Query]:
    questions = FLORENCE if name == "florence2" else QUESTIONS
    return [Query(f"q{i}", image, 70, 56, q, None, group) for i, q in enumerate(questions)]


@families
def test_greedy_answers_are_those_of_generate(load: Callable[[str], HFDescriber], name: str) -> None:
    """The group runs as one batch (shared image prefix, left padding, own cache); generate() runs each prompt
    alone from the processor's tensors.
    """
    describer = load(name)
    for query, answers in zip(queries(name), describer.answer(queries(name), GREEDY), strict=True):
        raw = describer.encoder.processed(describer.prompt(query), describer.images(query))
        out = describer.model.generate(
            **raw, do_sample=False, num_beams=1, max_new_tokens=8, pad_token_id=describer.pad
        )
        start = 1 if describer.model.config.is_encoder_decoder else raw["input_ids"].shape[1]
        ids = out[0, start:].tolist()
        end = next((i for i, t in enumerate(ids) if t in describer.stops), len(ids))
        hidden = {describer.pad, describer.processor.tokenizer.bos_token_id}
        expected = describer.processor.tokenizer.decode(
            [t for t in ids[:end] if t not in hidden], skip_special_tokens=False
        )
        assert answers[0].text == expected.strip()
        assert answers[0].stopped == (end < len(ids))


@families
def test_no_token_of_the_prompt_is_lost(load: Callable[[str], HFDescriber], name: str) -> None:
    """Putting a picture's image tokens into another question by hand must give what the processor gives."""
    describer = load(name)
    for query in queries(name):
        expected = describer.encoder.processed(describer.prompt(query), describer.images(query))["input_ids"][
            0
        ].tolist()
        assert list(describer.row(query).ids) == expected


@families
def test_the_image_is_seen(load: Callable[[str], HFDescriber], name: str) -> None:
    describer = load(name)
    rows = [describer.row(queries(name, image=image)[0]) for image in ("1@70x56", "2@70x56")]
    if name in GENERATE:
        start = (
            {"decoder_input_ids": torch.tensor([[describer.model.config.text_config.decoder_start_token_id]])}
            if name == "florence2"
            else {}
        )
        a, b = (describer.model(**row.raw, **start).logits[0, -1] for row in rows)  # type: ignore[arg-type]
    else:
        with torch.inference_mode():
            a, b = (describer._decoder._read([row])[2][0] for row in rows)  # type: ignore[union-attr]
    assert (a - b).abs().max() > 1e-6


@families
def test_samples_depend_on_their_group_alone(load: Callable[[str], HFDescriber], name: str) -> None:
    describer = load(name)
    two = [
        *queries(name, "a"),
        *(
            Query(f"b{q.item_id}", q.image, 70, 56, q.prompt, None, "b")
            for q in queries(name, image="2@56x70")
        ),
    ]
    together = describer.answer(two, DRAWN)
    assert describer.answer(two[3:], DRAWN) == together[3:]
    assert describer.answer(two[:3], DRAWN) == together[:3]
    assert len({a.text for answers in together for a in answers}) > 3


@families
def test_a_stream_of_prompts_gives_the_answers_that_they_have_alone(
    load: Callable[[str], HFDescriber], checkpoint: Callable[[str], str], name: str
) -> None:
    """`throughput`: pictures of two sizes encoded together, with and without a crop, room for four prompts:
    rows leave and others take their place, where the cache allows it. Greedy answers do not notice.
    """
    fast = HFDescriber(checkpoint(name), load_image=load_noise, batching="throughput")
    if fast._flow is not None:
        fast._flow.most = 4
    crop = None if name in ONE_IMAGE else (5.0, 5.0, 40.0, 50.0)
    asked = [
        Query(f"{k}/{q.item_id}", q.image, q.width, q.height, q.prompt, part)
        for k, image in enumerate(("1@70x56", "2@56x70", "3@70x56"))
        for part in (None, crop)
        for q in queries(name, image=image)
    ]
    alone = load(name)
    assert fast.answer(asked, GREEDY) == [alone.answer([query], GREEDY)[0] for query in asked]


@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *OTHERS) if name not in GENERATE])
def test_pictures_that_are_encoded_together_are_what_they_are_alone(
    load: Callable[[str], HFDescriber], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    describer = load(name)

    def rows() -> list[Row]:
        describer.encoder.forget()
        whole = [queries(name, image=image)[0] for image in ("1@70x56", "2@70x56", "3@56x70", "4@70x56")]
        return [describer.row(q) for q in (*whole, replace(whole[0], crop=(5.0, 5.0, 40.0, 50.0)))]

    alone, together = rows(), rows()
    calls = 0

    def counted(**tensors: Any) -> Any:
        nonlocal calls
        calls += 1
        return encode_images(**tensors)

    encode_images = describer.encoder._encode_images
    monkeypatch.setattr(describer.encoder, "_encode_images", counted)
    with torch.inference_mode():
        describer.encoder.encode([row.picture for row in together if row.picture is not None])
        assert calls <= 2  # one, or one for each shape of the tensors
        for a, b in zip(alone, together, strict=True):
            assert b.picture is not None
            assert b.picture.features is not None
            found, expected = describer.encoder.features([b]), describer.encoder.features([a])
            for x, y in zip(_flat(found["image"]), _flat(expected["image"]), strict=True):
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def _flat(output: Any) -> list[torch.Tensor]:
    """What of an encoder's output the language model reads."""
    layers = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
    return [torch.cat([x.flatten(0, -2) for x in layer]) for layer in layers]


@families
def test_a_crop_goes_along_or_is_refused(load: Callable[[str], HFDescriber], name: str) -> None:
    describer = load(name)
    answer = describer.answer([Query("c", "1@70x56", 70, 56, QUESTIONS[0], (5.0, 5.0, 40.0, 50.0))], GREEDY)[
        0
    ][0]
    if name in ONE_IMAGE:
        assert answer.failed is not None
        assert answer.failed.startswith("one_image: ")
    else:
        assert answer.failed is None


@families
def test_descriptions_are_scored(
    load: Callable[[str], HFDescriber], checkpoint: Callable[[str], str], name: str
) -> None:
    """Random weights say nothing readable and rarely end: no answer is lost, and whatever was said is scored,
    or unscored with a reason.
    """
    dialect = get_dialect(*_dialect(checkpoint(name)))
    objects = (
        RegionObject("0", "dog", (5.0, 5.0, 30.0, 30.0)),
        RegionObject("1", "cat", (20.0, 20.0, 40.0, 50.0)),
    )
    region = Region("r", "1@70x56", "1@70x56", 70, 56, 0, (5.0, 5.0, 40.0, 50.0), "0", objects)
    config = DescribeConfig(templates=("plain", "list"), samples=2, max_new_tokens=8)
    found = describe([region], load(name), dialect, config, seed=0)
    kept, dropped = found.rows, found.dropped
    assert len(kept) + len(dropped) == 4
    assert {d.reason for d in dropped} <= {"empty_answer", "answer_cut"}
    answers = load(name).answer(queries_of(region, config, dialect), Sampling(n=2, max_new_tokens=8))
    said = [
        Description(f"r/{k}", "r", k, "plain", "?", a.text)
        for k, a in enumerate(a for found in answers for a in found)
    ]
    scorer = ScriptedScorer(lambda image, box, text: (0.2, 0.4))
    rows, _ = score([(region, said)], dialect, scorer, ScriptedDetector({}), ScoreConfig())
    assert len(rows) == 4
    assert all((r.score.total is None) == (r.score.unscored is not None) for r in rows)


def _dialect(folder: str) -> tuple[str]:
    try:
        return (dialect_for_checkpoint(folder)[0],)
    except ConfigError:
        return ("llava:original",)


@families
def test_the_family_names_its_dialect_or_asks_for_it(checkpoint: Callable[[str], str], name: str) -> None:
    folder = checkpoint(name)
    model_type = model_type_of(folder)
    if model_type in DIALECTS:
        found, options = dialect_for_checkpoint(folder)
        assert found == DIALECTS[model_type]
        assert get_dialect(found, **options).contract.verified
    else:
        with pytest.raises(
            ConfigError,
            match=rf"model.dialect: found nothing for model_type '{model_type}': "
            rf"{WHY_REQUIRED[model_type][:10]}",
        ):
            dialect_for_checkpoint(folder)


def test_the_resized_frame_comes_from_the_processor(checkpoint: Callable[[str], str]) -> None:
    """Qwen2.5-VL's coordinates are pixels of the resized image, so the checkpoint's own limits are part of
    the contract (16 x 28 x 28 here).
    """
    folder = checkpoint("qwen2_5_vl")
    _, options = dialect_for_checkpoint(folder)
    assert options == {"min_pixels": 784, "max_pixels": 12544, "factor": 28}
    seen = get_dialect("qwen2_5_vl", **options).model_size(Frame(640, 480))
    grid = (
        load_processor(folder)
        .image_processor(images=[load_noise("1@640x480")], return_tensors="pt")["image_grid_thw"][0]
        .tolist()
    )
    assert seen == (grid[2] * 14, grid[1] * 14)


@families
def test_no_processor_hides_a_part_of_the_image(load: Callable[[str], HFDescriber], name: str) -> None:
    """LLaVA's cuts off the sides of wide and tall pictures, and can be told to pad (or to squash) instead."""
    dialect = get_dialect("llava" if name == "llava" else "ferret")
    assert (cropping(load(name).processor, dialect) is not None) == (name == "llava")


@pytest.mark.parametrize("dialect", ["llava", "ferret"])
def test_the_fix_for_a_cropping_processor_shows_the_whole_image(
    checkpoint: Callable[[str], str], dialect: str
) -> None:
    """The fix that the error names, taken at its word: the top of a wide white picture is at the top
    (squashed) or at a quarter (padded).
    """
    folder = checkpoint("llava")
    complaint = cropping(load_processor(folder), get_dialect(dialect))
    assert complaint is not None
    fix = yaml.safe_load(complaint.split("set model.processor: ")[1])
    fixed = load_processor(Checkpoint(folder, processor=fix))
    assert cropping(fixed, get_dialect(dialect)) is None
    pixels = fixed.image_processor(
        images=[Image.new("RGB", (224, 112), (255, 255, 255))], return_tensors="pt"
    )["pixel_values"][0, 0]
    bright = (pixels > pixels.max() - 0.1).any(1).nonzero()[:, 0]
    top, bottom = (14, 42) if dialect == "llava" else (0, 56)
    assert pixels.shape == (56, 56)
    assert abs(int(bright[0]) - top) <= 1
    assert abs(int(bright[-1]) + 1 - bottom) <= 1


def test_padding_that_a_processor_does_not_know_is_no_fix(checkpoint: Callable[[str], str]) -> None:
    """CLIP's takes `do_pad` and does nothing with it: what counts is what it makes of a picture."""
    assert (
        cropping(
            load_processor(Checkpoint(checkpoint("llava"), processor={"do_pad": True})), get_dialect("llava")
        )
        is not None
    )


def test_a_setting_that_the_processor_does_not_have_is_one_line(checkpoint: Callable[[str], str]) -> None:
    with pytest.raises(
        ConfigError, match=r"model.processor: unknown setting 'do_padd' \(did you mean 'do_pad'\?\)"
    ):
        load_processor(Checkpoint(checkpoint("llava"), processor={"do_padd": True}))
    with pytest.raises(
        ConfigError,
        match=r"model.processor.image_processor_type: found 'Llava', expected an image processor of "
        r"transformers",
    ):
        load_processor(Checkpoint(checkpoint("llava"), processor={"image_processor_type": "Llava"}))


def test_a_folder_without_a_config_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.folder: found no config.json with a model_type"):
        dialect_for_checkpoint(str(tmp_path))


def test_an_unknown_model_type_asks_for_a_dialect(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "newvl"}')
    with pytest.raises(
        ConfigError,
        match="model_type 'newvl': no verified notation of boxes is known for it; expected one of asmv2, "
        "cogvlm, ",
    ):
        dialect_for_checkpoint(str(tmp_path))


@families
@pytest.mark.parametrize("size", ["900x4", "4x900", "1x1"])
def test_a_picture_of_an_odd_shape_is_answered_or_dropped_alone(
    load: Callable[[str], HFDescriber], name: str, size: str
) -> None:
    """Qwen and GLM take no aspect over 200: 900x4, and a crop of that shape, ended the run in a traceback."""
    width, height = (int(n) for n in size.split("x"))
    good = queries(name)[0]
    odd = [
        Query("whole", f"1@{size}", width, height, good.prompt, None, "g"),
        Query("crop", "1@900x60", 900, 60, good.prompt, (0.0, 0.0, 890.0, 2.0), "h"),
    ]
    found = load(name).answer([good, *odd], GREEDY)
    assert found[0] == load(name).answer([good], GREEDY)[0]
    for (answer,) in found[1:]:
        assert answer.failed is None or answer.failed.startswith(("image_not_shown: ", "one_image: "))
