"""Region embeddings and texts of a dual encoder, against the official full passes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from spr.errors import ConfigError
from spr.models.clip import DualEncoderScorer
from spr.models.pictures import crop
from spr.models.towers import patches_inside
from spr.models.windows import sentence_windows
from spr.ports import ImageTextScorer
from tests.unit.models.conftest import load_noise, noise

WHOLE = (0.0, 0.0, 224.0, 224.0)
REGIONS = [(10.0, 20.0, 120.0, 200.0), (0.0, 0.0, 3.0, 3.0), WHOLE]
TEXTS = ["a small cat and a large dog", "there is an owl", "the leftmost pig"]


@pytest.fixture(scope="module")
def scorer(checkpoints: Callable[[str], str]) -> DualEncoderScorer:
    return DualEncoderScorer(checkpoints("clip"), load_image=load_noise)


def test_it_is_a_scorer(scorer: DualEncoderScorer) -> None:
    assert isinstance(scorer, ImageTextScorer)


def test_the_whole_image_as_a_region_is_the_image(scorer: DualEncoderScorer) -> None:
    official = scorer.model.get_image_features(**scorer.fit.pixels([noise(1)])).pooler_output
    official = official / official.norm(dim=-1, keepdim=True)
    assert torch.allclose(scorer.regions("1", [WHOLE]), official, atol=1e-5)


def test_a_region_is_the_last_block_with_a_mask(scorer: DualEncoderScorer) -> None:
    """The reference masks the whole last layer of the official model: the class token's row sees itself and
    the region's patches.
    """
    states = scorer.tower.states(scorer.fit.pixels([noise(1)]))
    inside = np.stack([patches_inside(scorer.fit.centres((224, 224), {}), r) for r in REGIONS])
    vision = scorer.model.vision_model
    for row, mine in zip(inside, scorer.regions("1", REGIONS), strict=True):
        mask = torch.zeros(1, 1, 65, 65)
        mask[0, 0, 0, 1:][torch.from_numpy(~row)] = -torch.inf
        token = vision.post_layernorm(vision.encoder.layers[-1](states, mask)[:, 0])
        expected = scorer.model.visual_projection(token)[0]
        assert torch.allclose(mine, expected / expected.norm(), atol=1e-5)


def test_cosines_of_pairs_are_those_of_one_at_a_time(scorer: DualEncoderScorer) -> None:
    pairs = [(0, 0), (2, 1), (1, 2), (0, 2)]
    together = scorer.similarities("1", REGIONS, TEXTS, pairs)
    for i, (r, t) in enumerate(pairs):
        one = scorer.similarities("1", [REGIONS[r]], [TEXTS[t]], [(0, 0)])
        assert together[0][i] == pytest.approx(one[0][0], abs=1e-5)
        assert together[1][i] == pytest.approx(one[1][0], abs=1e-5)
    assert scorer.similarities("1", REGIONS, TEXTS, [])[0].shape == (0,)


def test_the_crop_is_what_the_processor_makes_of_it(scorer: DualEncoderScorer) -> None:
    """Squashed to the square without a centre crop: the numbers of the official processor with those two
    settings.
    """
    part = crop(noise(1), REGIONS[0])
    assert part.size == (110, 180)
    pixels = scorer.fit.processor(
        images=[part], size={"height": 112, "width": 112}, do_center_crop=False, return_tensors="pt"
    )["pixel_values"]
    official = scorer.model.get_image_features(pixels).pooler_output
    text = scorer.texts(TEXTS[:1])[0]
    expected = torch.cosine_similarity(official, text[None]).item()
    assert scorer.similarities("1", REGIONS[:1], TEXTS[:1], [(0, 0)])[0][0] == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize(
    ("fit", "size", "first", "last"),
    [
        # 8 x 8 patches; 640 x 480; the first and the last patch centre, by hand
        ("squash", (640, 480), (40.0, 30.0), (600.0, 450.0)),  # a patch covers 80 x 60
        ("pad", (640, 480), (40.0, -40.0), (600.0, 520.0)),  # a square of 640, 80 px above and below
        # the middle 480 x 480: 60 px each, from x = 80
        ("center_crop", (640, 480), (110.0, 30.0), (530.0, 450.0)),
    ],
)
def test_where_patches_lie(
    checkpoints: Callable[[str], str],
    fit: str,
    size: tuple[int, int],
    first: tuple[float, float],
    last: tuple[float, float],
) -> None:
    centres = DualEncoderScorer(checkpoints("clip"), load_image=load_noise, clip_fit=fit).fit.centres(
        size, {}
    )
    assert tuple(centres[0]) == pytest.approx(first)
    assert tuple(centres[-1]) == pytest.approx(last)


@pytest.mark.parametrize("fit", ["squash", "pad", "center_crop"])
def test_a_mark_lights_up_the_patch_at_its_place(checkpoints: Callable[[str], str], fit: str) -> None:
    """A white spot in a black 300 x 200 picture: the brightest patch of the pixels is the one whose centre is
    nearest to the spot.
    """
    picture = Image.new("RGB", (300, 200))
    picture.paste((255, 255, 255), (195, 77, 215, 97))
    fitted = DualEncoderScorer(checkpoints("clip"), load_image=load_noise, clip_fit=fit).fit
    pixels = fitted.pixels([picture])
    bright = pixels["pixel_values"][0].mean(0).reshape(8, 14, 8, 14).mean(dim=(1, 3)).flatten()
    if fit == "pad":  # the mean colour of the padding is brighter than black
        bright[[i for i in range(64) if i // 8 in (0, 7)]] = -torch.inf
    nearest = np.hypot(*(fitted.centres((300, 200), pixels) - (205, 87)).T).argmin()
    assert bright.argmax() == nearest


@given(x=st.floats(-50, 300), y=st.floats(-50, 300), w=st.floats(0.01, 300), h=st.floats(0.01, 300))
def test_a_region_always_has_a_patch(x: float, y: float, w: float, h: float) -> None:
    centres = np.stack(np.meshgrid(np.arange(8) * 28 + 14.0, np.arange(8) * 28 + 14.0), axis=-1).reshape(
        -1, 2
    )
    inside = patches_inside(centres, (x, y, x + w, y + h))
    assert inside.sum() >= 1
    in_region = ((centres >= (x, y)) & (centres < (x + w, y + h))).all(axis=1)
    assert (inside == in_region).all() or (not in_region.any() and inside.sum() == 1)


def test_the_nearest_patch_stands_in_for_a_tiny_region() -> None:
    centres = np.array([[14.0, 14.0], [42.0, 14.0], [70.0, 14.0]])
    assert patches_inside(centres, (50.0, 12.0, 54.0, 20.0)).tolist() == [False, True, False]


def test_long_texts_are_averaged_over_windows(scorer: DualEncoderScorer) -> None:
    sentence = " ".join(["dog"] * 40) + "."
    text = f"{sentence} {sentence.replace('dog', 'cat')} an owl."
    windows = scorer.windows(text)
    # 40 words + "." + two ends = 43 of 64 tokens; + 3 = 46
    assert windows == [sentence, f"{sentence.replace('dog', 'cat')} an owl."]
    parts = scorer.texts(windows)
    mean = parts.mean(0)
    assert torch.allclose(scorer.texts([text])[0], mean / mean.norm(), atol=1e-6)


def test_truncation_is_an_option(checkpoints: Callable[[str], str]) -> None:
    cut = DualEncoderScorer(checkpoints("clip"), load_image=load_noise, long_text="truncate")
    # 62 words and two ends fill 64 tokens
    assert torch.allclose(cut.texts(["dog " * 100]), cut.texts(["dog " * 62]), atol=1e-6)


@given(
    st.lists(st.text(alphabet="ab .!", min_size=1, max_size=30), min_size=1, max_size=8), st.integers(1, 12)
)
def test_windows_fit_and_lose_no_letter(parts: list[str], limit: int) -> None:
    text = " ".join(parts)
    windows = sentence_windows(text, len, limit)
    assert "".join("".join(windows).split()) == "".join(text.split())
    assert all(len(w) <= limit for w in windows if w.strip())


def test_sentences_stay_whole_where_they_fit() -> None:
    assert sentence_windows("One two. Three four! Five.", lambda t: len(t.split()), 4) == [
        "One two. Three four!",
        "Five.",
    ]
    assert sentence_windows("one two three four five", lambda t: len(t.split()), 2) == [
        "one two",
        "three four",
        "five",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_fit": "stretch"}, "semantic.clip_fit: unknown fit 'stretch'"),
        ({"long_text": "cut"}, "semantic.long_text: unknown way 'cut'"),
    ],
)
def test_unknown_options_are_one_line(
    checkpoints: Callable[[str], str], options: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        DualEncoderScorer(checkpoints("clip"), load_image=load_noise, **options)  # type: ignore[arg-type]


def test_a_model_without_such_a_tower_is_refused(checkpoints: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match=r"semantic.folder: found a 'llava' model"):
        DualEncoderScorer(checkpoints("mllm"), load_image=load_noise)
