"""Dual encoders of every kind: cosines of one text and one region at a time through the official model are
the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spr.models.clip import DualEncoderScorer
from spr.models.loading import precision, save_checkpoint
from spr.models.pictures import crop
from spr.models.towers import patches_inside
from spr.types import Box, Checkpoint
from tests.contract import towers
from tests.contract.towers import SCORERS
from tests.unit.models.conftest import load_noise

IMAGE, SIZE = "1@90x60", (90, 60)
WHOLE: Box = (0.0, 0.0, 90.0, 60.0)
REGIONS: list[Box] = [WHOLE, (0.0, 0.0, 44.0, 60.0), (30.0, 10.0, 80.0, 50.0), (1.0, 1.0, 2.0, 2.0)]
TEXTS = ["a dog", "the small cat next to a tree", "there is an owl"]
scorers = pytest.mark.parametrize("name", SCORERS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("towers")
    return lambda name: str(towers.build(name, root))


@pytest.fixture(scope="module")
def load(checkpoint: Callable[[str], str]) -> Callable[[str], DualEncoderScorer]:
    return functools.cache(lambda name: DualEncoderScorer(checkpoint(name), load_image=load_noise))


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def official_image(scorer: DualEncoderScorer, image: Image.Image) -> torch.Tensor:
    return unit(scorer.model.get_image_features(**scorer.fit.pixels([image])).pooler_output)[0]


@scorers
@torch.inference_mode()
def test_crops_and_texts_are_the_official_embeddings(
    load: Callable[[str], DualEncoderScorer], name: str
) -> None:
    scorer = load(name)
    pairs = [(r, t) for r in range(len(REGIONS)) for t in range(len(TEXTS))]
    found, _ = scorer.similarities(IMAGE, REGIONS, TEXTS, pairs)
    padding = "max_length" if name.startswith("siglip") else False
    for (r, t), cosine in zip(pairs, found, strict=True):
        tokens = scorer.tokenizer(TEXTS[t], padding=padding, max_length=16, return_tensors="pt")
        text = unit(scorer.model.get_text_features(**tokens).pooler_output)[0]
        assert cosine == pytest.approx(
            (official_image(scorer, crop(load_noise(IMAGE), REGIONS[r])) @ text).item(), abs=1e-5
        )


@scorers
@torch.inference_mode()
def test_the_whole_image_as_a_region_equals_the_image(
    load: Callable[[str], DualEncoderScorer], name: str
) -> None:
    scorer = load(name)
    assert torch.allclose(
        scorer.regions(IMAGE, [WHOLE])[0], official_image(scorer, load_noise(IMAGE)), atol=1e-5
    )


@scorers
@torch.inference_mode()
def test_a_region_looks_only_at_its_patches(load: Callable[[str], DualEncoderScorer], name: str) -> None:
    """Changing what the tower says about patches outside the region must not move it, and changing one inside
    must.
    """
    scorer = load(name)
    seen = scorer._look(IMAGE)
    states, centres = seen.states, seen.centres
    inside = torch.from_numpy(patches_inside(centres, REGIONS[1]))[None]
    # the class token stands before the patches
    first = int(states.shape[1] - inside.shape[1]) if "siglip" not in name else 0
    before = scorer.tower.regions(states, inside)
    for patch in range(inside.shape[1]):
        changed = states.clone()
        changed[0, first + patch] *= -1
        moved = (scorer.tower.regions(changed, inside) - before).abs().max().item() > 1e-6
        assert moved == bool(inside[0, patch])


@scorers
def test_one_full_pass_serves_all_regions_and_calls(
    load: Callable[[str], DualEncoderScorer], name: str
) -> None:
    scorer = load(name)
    scorer.forget()
    passes: list[int] = []
    hook = scorer.model.vision_model.register_forward_hook(lambda *_: passes.append(1))
    scorer.regions(IMAGE, REGIONS)
    scorer.regions(IMAGE, REGIONS[:1])
    hook.remove()
    assert len(passes) == 1


@scorers
def test_images_that_run_together_are_what_they_are_alone(
    load: Callable[[str], DualEncoderScorer], checkpoint: Callable[[str], str], name: str
) -> None:
    """`throughput`, and what was expected in `per_item`: images of several shapes, a file that is missing."""
    alone = load(name)
    asked = {
        "1@90x60": REGIONS,
        "2@50x80": [(0.0, 0.0, 30.0, 70.0)],
        "missing": REGIONS[:1],
        "3@90x60": REGIONS[1:],
    }
    pairs = [(0, 0), (0, 2), (0, 1)]
    for batching, batch in (("throughput", 32), ("throughput", 3), ("per_item", 32)):
        scorer = DualEncoderScorer(checkpoint(name), load_noise, batch=batch, batching=batching)
        scorer.expect(asked)
        passes: list[int] = []
        hook = scorer.model.vision_model.register_forward_hook(
            lambda *_, passes=passes: passes.append(1)  # type: ignore[misc]
        )
        for image, regions in asked.items():
            if image == "missing":
                with pytest.raises(FileNotFoundError):
                    scorer.similarities(image, regions, TEXTS, pairs)
                continue
            found = scorer.similarities(image, regions, TEXTS, pairs)
            expected = alone.similarities(image, regions, TEXTS, pairs)
            np.testing.assert_allclose(found, expected, atol=1e-5)
        hook.remove()
        if (batching, batch) == ("throughput", 32):
            assert len(passes) <= 3  # the images, of one shape or two; all crops


@scorers
def test_the_type_of_the_weights_is_a_setting(
    load: Callable[[str], DualEncoderScorer], checkpoint: Callable[[str], str], name: str
) -> None:
    coarse = DualEncoderScorer(Checkpoint(checkpoint(name), dtype="bfloat16"), load_image=load_noise)
    assert coarse.model.dtype == torch.bfloat16
    pairs = [(r, t) for r in range(len(REGIONS)) for t in range(len(TEXTS))]
    found = coarse.similarities(IMAGE, REGIONS, TEXTS, pairs)
    np.testing.assert_allclose(found, load(name).similarities(IMAGE, REGIONS, TEXTS, pairs), atol=0.05)


def test_products_are_coarser_only_where_that_is_said() -> None:
    before = torch.get_float32_matmul_precision()
    with precision("tf32"):
        assert torch.get_float32_matmul_precision() == "high"
        with precision("float32"):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def two_colour_clip(folder: Path) -> str:
    """A CLIP built by hand. A patch's state is (red, green, 0, …); the class token is empty and copies the
    mean of what it attends to; the text encoder says (1, 0) for "dog" and (0, 1) for "cat". So "dog" means
    red and "cat" means green.
    """
    model, processor = towers.clip()
    vision, text = model.vision_model, model.text_model
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        for norm in [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]:
            norm.weight.fill_(1.0)
        vision.embeddings.patch_embedding.weight[0, 0] = 1.0  # red -> first axis
        vision.embeddings.patch_embedding.weight[1, 1] = 1.0  # green -> second axis
        last = vision.encoder.layers[-1].self_attn
        # queries and keys are zero: equal attention to every visible token
        last.v_proj.weight.copy_(torch.eye(32))
        last.out_proj.weight.copy_(torch.eye(32))
        model.visual_projection.weight[0, 0] = model.visual_projection.weight[1, 1] = 1.0
        for axis, word in enumerate(("dog", "cat")):
            text.embeddings.token_embedding.weight[processor.tokenizer.convert_tokens_to_ids(word), axis] = (
                10.0
            )
        first = text.encoder.layers[0].self_attn
        first.v_proj.weight.copy_(torch.eye(32))
        first.out_proj.weight.copy_(torch.eye(32))
        model.text_projection.weight[0, 0] = model.text_projection.weight[1, 1] = 1.0
    save_checkpoint(model, processor, folder)
    return str(folder)


def test_a_region_prefers_the_text_of_the_object_inside(tmp_path: Path) -> None:
    """A red object on the left and a green one on the right of a black image; the model is built by hand so
    that "dog" means red, "cat" green.

    The whole image likes both equally; each half must like its own object better, by far.
    """
    picture = Image.new("RGB", (112, 56))
    picture.paste((255, 0, 0), (14, 14, 42, 42))
    picture.paste((0, 255, 0), (70, 14, 98, 42))
    scorer = DualEncoderScorer(two_colour_clip(tmp_path), load_image=lambda path: picture)
    left, right, whole = (0.0, 0.0, 56.0, 56.0), (56.0, 0.0, 112.0, 56.0), (0.0, 0.0, 112.0, 56.0)
    pairs = [(r, t) for r in range(3) for t in range(2)]
    _, local = scorer.similarities("x", [left, right, whole], ["dog", "cat"], pairs)
    (left_dog, left_cat), (right_dog, right_cat), (whole_dog, whole_cat) = np.reshape(local, (3, 2))
    assert left_dog > left_cat + 0.2
    assert right_cat > right_dog + 0.2
    # the processor's means of red and green differ a little
    assert whole_dog == pytest.approx(whole_cat, abs=0.05)


@scorers
@pytest.mark.parametrize("size", ["900x4", "4x900", "1x1"])
def test_a_picture_of_an_odd_shape_has_numbers(
    load: Callable[[str], DualEncoderScorer], name: str, size: str
) -> None:
    width, height = (float(n) for n in size.split("x"))
    found = load(name).similarities(f"1@{size}", [(0.0, 0.0, width, height)], ["a dog"], [(0, 0)])
    assert all(np.isfinite(found).ravel())
