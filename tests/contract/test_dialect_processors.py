"""Our pixels against those of the processors that transformers ships: Kosmos-2 and Florence-2, built offline
with tokenizers trained on the spot.

The texts go the way of a real answer: written by us, through the processor's tokenizer and back, then read by
its post-processing and by ours.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from spr.dialects import Frame, frame_for, get_dialect, smart_resize
from spr.types import Box

PHRASES = ["a cat", "two dogs", "the man in a red hat", "it", "a snowman warming by a fire"]


def _tokenizer(**special: Any) -> Any:
    """A byte-level tokenizer that knows the phrases: it loses no character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(PHRASES, trainer)
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        **special,
    )


@pytest.fixture(scope="module")
def kosmos2() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.kosmos2.processing_kosmos2 import Kosmos2Processor

    processor: Any = Kosmos2Processor
    return processor(CLIPImageProcessorPil(), _tokenizer())


@pytest.fixture(scope="module")
def florence2() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.florence2.processing_florence2 import Florence2Processor

    image_processor: Any = CLIPImageProcessorPil()
    image_processor.image_seq_length = 577
    tokenizer = _tokenizer(extra_special_tokens={"image_token": "<image>"})
    tokenizer.add_tokens([f"<loc_{k}>" for k in range(1000)])
    tasks = ("phrase_grounding", "description_with_bboxes", "bboxes")
    return Florence2Processor(image_processor, tokenizer, post_processor_config={task: {} for task in tasks})


def _box(rng: random.Random, frame: Frame) -> Box:
    x1, y1 = rng.uniform(0, 0.99), rng.uniform(0, 0.99)
    x2, y2 = rng.uniform(x1 + 1e-3, 1), rng.uniform(y1 + 1e-3, 1)
    return x1 * frame.width, y1 * frame.height, x2 * frame.width, y2 * frame.height


def _parts(rng: random.Random, frame: Frame) -> list[str | tuple[str, list[Box]]]:
    parts: list[str | tuple[str, list[Box]]] = []
    for _ in range(rng.randint(1, 3)):
        parts += [(rng.choice(PHRASES), [_box(rng, frame) for _ in range(rng.randint(1, 3))]), ","]
    return parts


def test_kosmos2_writes_and_reads_the_same_boxes(kosmos2: Any) -> None:
    """The same cells as the processor writes for a box, and the same pixels as it reads, on 1,000 random
    answers.
    """
    d, rng = get_dialect("kosmos2"), random.Random(0)
    for _ in range(1000):
        frame = Frame(rng.randint(1, 2000), rng.randint(1, 2000))
        parts = _parts(rng, frame)
        mentions = [part for part in parts if not isinstance(part, str)]
        text = "<grounding>" + d.compose(parts, frame)
        unit = [
            [
                (x1 / frame.width, y1 / frame.height, x2 / frame.width, y2 / frame.height)
                for x1, y1, x2, y2 in boxes
            ]
            for _, boxes in mentions
        ]
        prompt = kosmos2.preprocess_examples(
            "<grounding>" + ",".join(f"<phrase> {phrase}</phrase>" for phrase, _ in mentions) + ",",
            bboxes=unit,
        )
        ids = kosmos2.tokenizer(text)["input_ids"]
        # the tokens swallow the blanks that the processor writes
        assert ids == kosmos2.tokenizer(prompt)["input_ids"]
        written = kosmos2.tokenizer.decode(ids)
        _, entities = kosmos2.post_process_generation(written)
        theirs = [
            (
                phrase,
                [
                    (a * frame.width, b * frame.height, c * frame.width, e * frame.height)
                    for a, b, c, e in boxes
                ],
            )
            for phrase, _, boxes in entities
        ]
        for answer in (written, text, prompt):
            ours = d.parse(answer, frame).mentions
            assert (
                [m.phrase for m in ours]
                == [phrase for phrase, _ in theirs]
                == [phrase for phrase, _ in mentions]
            )
            assert [box for m in ours for box in m.boxes] == [
                pytest.approx(box, abs=1e-9) for _, boxes in theirs for box in boxes
            ]


def test_florence2_reads_the_same_boxes(florence2: Any) -> None:
    """`florence2:int` gives the whole pixels of the processor, `florence2:float` lies within one pixel above
    them, on 1,000 random answers.
    """
    whole, exact, rng = get_dialect("florence2:int"), get_dialect("florence2:float"), random.Random(0)
    for _ in range(1000):
        size = (rng.randint(1, 3000), rng.randint(1, 3000))
        frame = Frame(*size)
        text = "<s>" + exact.compose([part for part in _parts(rng, frame) if part != ","], frame) + "</s>"
        written = florence2.tokenizer.decode(
            florence2.tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=False
        )
        assert written == text
        for task in ("<CAPTION_TO_PHRASE_GROUNDING>", "<OD>"):
            theirs = florence2.post_process_generation(written, task=task, image_size=size)[task]
            ours = whole.parse(written, frame).mentions
            assert [list(box) for m in ours for box in m.boxes] == theirs["bboxes"]
            assert [m.phrase for m in ours for _ in m.boxes] == theirs["labels"]
        for box, pixels in zip(
            [box for m in exact.parse(written, frame).mentions for box in m.boxes],
            theirs["bboxes"],
            strict=True,
        ):
            assert all(-1e-3 <= a - b < 1.001 for a, b in zip(box, pixels, strict=True))


def test_florence2_writes_the_same_tokens(florence2: Any) -> None:
    """Official encoding is the processor's `quantize`, in double precision."""
    import torch

    d, rng = get_dialect("florence2", encode="official"), random.Random(1)
    for _ in range(500):
        frame = Frame(rng.randint(1, 3000), rng.randint(1, 3000))
        box = _box(rng, frame)
        theirs = florence2.post_processor.quantize(
            torch.tensor([box], dtype=torch.float64), (frame.width, frame.height)
        )[0].tolist()
        assert d.box_text(box, frame) == "".join(f"<loc_{v}>" for v in theirs)


def test_qwen_frame_is_the_size_that_the_processor_shows() -> None:
    """`frame_for` reads a live processor's `size`, its dictionary and the released form of its file, and
    gives the size of its patches' grid.
    """
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor: Any = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 20}
    )
    for width, height in itertools.product((14, 30, 77, 123, 200, 300), repeat=2):
        _, rows, columns = processor(images=Image.new("RGB", (width, height)), return_tensors="np")[
            "image_grid_thw"
        ][0].tolist()
        shown = Frame(columns * processor.patch_size, rows * processor.patch_size)
        for config in (
            processor,
            processor.size,
            processor.to_dict(),
            {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 20},
        ):
            assert (
                frame_for(config, Frame(width, height))
                == get_dialect("qwen2_5_vl").frame_for(config, Frame(width, height))
                == shown
            )
        d = get_dialect("qwen2_5_vl", min_pixels=28 * 28 * 4, max_pixels=28 * 28 * 20)
        assert d.model_size(Frame(width, height)) == (shown.width, shown.height)


def test_smart_resize_equals_transformers() -> None:
    """On a grid of sizes, for the class default, the released and a small budget."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    for factor, low, high in [(28, 3136, 1_003_520), (28, 3136, 12_845_056), (32, 65_536, 262_144)]:
        for width in [*range(1, 60), 100, 333, 640, 1080, 1920, 4000, 8000]:
            for height in [*range(1, 60, 3), 100, 428, 480, 1080, 3000, 7999]:
                try:
                    expected = theirs(height, width, factor=factor, min_pixels=low, max_pixels=high)
                except ValueError:
                    with pytest.raises(ValueError, match="aspect ratio"):
                        smart_resize(Frame(width, height), factor, low, high)
                    continue
                assert smart_resize(Frame(width, height), factor, low, high) == expected[::-1]
