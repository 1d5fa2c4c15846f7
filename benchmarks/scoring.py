"""Scoring: candidates per second against one call per candidate, with real model sizes and random weights.

2 regions x 8 candidates of one image. CLIP ViT-B/32: the baseline embeds image, crop and text anew for each
candidate. OWLv2 ViT-B/16 and Grounding DINO Swin-T: the baseline runs the official model once per phrase of
each candidate (a query is one phrase on both sides, because joining phrases changes boxes); a candidate names
3 of 6 objects. Equality first: cosines, and scores and boxes of every phrase, within 1e-5 (boxes: of the
image). Grounding DINO fuses text and image in its encoder, so sharing the backbone is bounded: the ceiling 1
/ (1 - share) x (asked / distinct phrases) is printed beside the ratio. Processor time of one thread; images
are smaller than the detectors' own 960 and 800 pixels, so that this takes minutes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers.utils import logging

from spr.models.clip import DualEncoderScorer
from spr.models.detector import OpenVocabularyDetector
from spr.models.loading import load_processor, save_checkpoint
from spr.scenes.recipe.vocabulary import build_text_tokenizer
from spr.types import Box

t: Any = transformers  # many of its classes have no types
hf_logging: Any = logging
PHRASES = ("a dog", "the small cat", "an owl", "a large tree", "the leftmost pig", "there is a cat")
REGIONS: tuple[Box, ...] = ((20.0, 30.0, 260.0, 200.0), (200.0, 60.0, 380.0, 290.0))
CANDIDATES = 8
BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
}


def _image() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((400, 300), Image.Resampling.BICUBIC)


IMAGE = _image()


def _timed(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Smallest processor time of a few rounds, and the result."""
    seconds, result = [], None
    for _ in range(rounds):
        begin = time.process_time()
        result = work()
        seconds.append(time.process_time() - begin)
    return min(seconds), result


def _save(folder: Path, model: Any, processor: Any) -> str:
    save_checkpoint(model, processor, folder)
    return str(folder)


# --- CLIP -----------------------------------------------------------------------------------------


def _clip(folder: Path) -> str:
    tokenizer = build_text_tokenizer(77)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = t.CLIPConfig(
        text_config={**TEXT, **ends, "max_position_embeddings": 77},
        vision_config={**BASE, "image_size": 224, "patch_size": 32},
    )
    build: Any = t.CLIPProcessor
    return _save(folder, t.CLIPModel(config), build(t.CLIPImageProcessorPil(), tokenizer))


def _texts() -> list[list[str]]:
    rng = np.random.default_rng(1)
    return [[" and ".join(rng.permutation(PHRASES)[:4]) for _ in range(CANDIDATES)] for _ in REGIONS]


def clip(folder: Path) -> dict[str, Any]:
    """CLIP ViT-B/32."""
    scorer = DualEncoderScorer(_clip(folder), load_image=lambda path: IMAGE)
    texts = _texts()

    def ours() -> np.ndarray[Any, Any]:
        scorer.forget()
        found = [
            scorer.similarities("image", [r], ts, [(0, k) for k in range(len(ts))])
            for r, ts in zip(REGIONS, texts, strict=True)
        ]
        return np.concatenate([np.stack(pair) for pair in found], axis=1)

    def one_by_one() -> np.ndarray[Any, Any]:
        found = []
        for region, candidates in zip(REGIONS, texts, strict=True):
            for text in candidates:
                scorer.forget()
                found.append(np.stack(scorer.similarities("image", [region], [text], [(0, 0)])))
        return np.concatenate(found, axis=1)

    ours()
    mine, a = _timed(ours, 3)
    theirs, b = _timed(one_by_one, 1)
    worst = float(np.abs(a - b).max())
    assert worst < 1e-5, f"cosines differ by {worst}"
    return _row("CLIP ViT-B/32", mine, theirs, worst, len(REGIONS) * CANDIDATES)


# --- detectors ------------------------------------------------------------------------------------


def _owlv2(folder: Path) -> str:
    tokenizer = build_text_tokenizer(16)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = t.Owlv2Config(
        text_config={**TEXT, **ends, "max_position_embeddings": 16},
        vision_config={**BASE, "image_size": 480, "patch_size": 16},
    )
    build: Any = t.Owlv2Processor
    model = t.Owlv2ForObjectDetection(config)
    # transformers starts OWL's heads with deviation 1, where float noise is larger than 1e-5
    for head in (model.class_head, model.box_head):
        for p in head.parameters():
            torch.nn.init.normal_(p, std=0.02)
    return _save(
        folder, model, build(t.Owlv2ImageProcessorPil(size={"height": 480, "width": 480}), tokenizer)
    )


def _bert_tokenizer() -> Any:
    """Words of the phrases, with BERT's ids of the special tokens and full stop, which the model knows by
    heart.
    """
    ids = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012}
    ids |= {word: 2000 + i for i, word in enumerate(dict.fromkeys(" ".join(PHRASES).split()))}
    raw = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    raw.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
    )


def _grounding_dino(folder: Path) -> str:
    tokenizer = _bert_tokenizer()
    build: Any = t.GroundingDinoProcessor
    images = t.GroundingDinoImageProcessorPil(size={"shortest_edge": 320, "longest_edge": 533})
    model = t.GroundingDinoForObjectDetection(t.GroundingDinoConfig())
    with torch.no_grad():  # random weights would say 0 or 1, and every box would be its anchor
        model.model.decoder.layer_norm.weight.mul_(0.1)
        for head in model.bbox_embed:
            torch.nn.init.normal_(head.layers[-1].weight, std=0.02)
    return _save(folder, model, build(images, tokenizer))


def _asked() -> list[list[str]]:
    """The phrases of each candidate."""
    rng = np.random.default_rng(2)
    return [
        [PHRASES[i] for i in sorted(rng.permutation(len(PHRASES))[:3])]
        for _ in range(len(REGIONS) * CANDIDATES)
    ]


@torch.inference_mode()
def _official(model: Any, processor: Any, phrase: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and boxes of one phrase through forward(), sorted by score."""
    if model.config.model_type == "owlv2":
        inputs = processor(
            text=[[phrase]], images=[IMAGE], return_tensors="pt", padding="max_length", max_length=16
        )
        out = model(**inputs)
        scores, side = torch.sigmoid(out.logits[0, :, 0]), torch.tensor(max(IMAGE.size))
        size = side.expand(4)
    else:
        inputs = processor(images=IMAGE, text=f"{phrase}.", return_tensors="pt")
        out = model(**inputs)
        scores = torch.sigmoid(out.logits[0, :, 1 : inputs["input_ids"].shape[1] - 2]).amax(-1)
        size = torch.tensor([*IMAGE.size, *IMAGE.size])
    cx, cy, w, h = out.pred_boxes[0].unbind(-1)
    boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1) * size
    order = scores.argsort(descending=True, stable=True)
    return scores[order].double(), boxes[order].double()


def _same(mine: Sequence[Any], scores: torch.Tensor, boxes: torch.Tensor) -> float:
    """Largest difference of scores, and of boxes as a share of the image. Boxes are matched by score where it
    is unique.
    """
    worst = float((torch.tensor([d.score for d in mine], dtype=torch.float64) - scores).abs().max())
    gaps = (scores[:-1] - scores[1:]).tolist()
    alone = [i for i in range(1, len(scores) - 1) if min(gaps[i - 1], gaps[i]) > 1e-5]
    for i in alone:
        worst = max(
            worst,
            float((torch.tensor(mine[i].box, dtype=torch.float64) - boxes[i]).abs().max()) / max(IMAGE.size),
        )
    return worst


def detector(name: str, folder: str, share_of: Callable[[Any], Callable[[], Any]]) -> dict[str, Any]:
    """One detector against its official forward, one phrase per call."""
    ours = OpenVocabularyDetector(folder, load_image=lambda path: IMAGE, threshold=-1.0)
    official = t.AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    processor, asked = load_processor(folder), _asked()

    def shared() -> list[list[Any]]:
        ours.forget()
        return [found for phrases in asked for found in ours.detect("image", phrases)]

    flat = [p for phrases in asked for p in phrases]
    once, _ = _timed(lambda: _official(official, processor, flat[0]), 2)
    backbone, _ = _timed(share_of(official), 2)
    mine, found = _timed(shared, 1)
    begin = time.process_time()
    reference = {p: _official(official, processor, p) for p in dict.fromkeys(flat)}
    # the same call again and again: each distinct phrase is measured once
    theirs = (time.process_time() - begin) / len(reference) * len(flat)
    worst = max(_same(f, *reference[p]) for p, f in zip(flat, found, strict=True))
    assert worst < 1e-5, f"{name}: differs by {worst}"
    row = _row(name, mine, theirs, worst, len(asked))
    share, distinct = backbone / once, len(reference)
    dedup = len(flat) / distinct
    # the backbone once, everything else once per distinct phrase
    ceiling = dedup / (1 - share + share / distinct)
    reached = theirs / mine / ceiling
    print(
        f"{'':26} backbone {share:.0%} of a call, {len(flat)} phrases, {distinct} distinct: ceiling "
        f"{ceiling:.1f}x, reached {reached:.0%}"
    )
    return row | {
        "backbone_share": round(share, 3),
        "asked": len(flat),
        "distinct": distinct,
        "ceiling": round(ceiling, 2),
    }


def _row(name: str, mine: float, theirs: float, worst: float, candidates: int) -> dict[str, Any]:
    print(
        f"{name:26} {candidates / mine:>8.2f} /s {candidates / theirs:>15.3f} /s {theirs / mine:>7.1f}x   "
        f"differs by {worst:.1e}"
    )
    return {
        "ours_per_s": round(candidates / mine, 3),
        "one_by_one_per_s": round(candidates / theirs, 4),
        "ratio": round(theirs / mine, 2),
        "difference": worst,
    }


def run() -> dict[str, Any]:
    """Print the table and return its numbers."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'score 2 x 8 candidates':26} {'ours':>11} {'one call each':>18} {'ratio':>8}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)

        def owl_backbone(model: Any) -> Any:
            pixels = torch.zeros(1, 3, 480, 480)
            return torch.inference_mode()(lambda: model.image_embedder(pixel_values=pixels))

        def dino_backbone(model: Any) -> Any:
            pixels, mask = torch.zeros(1, 3, 320, 427), torch.ones(1, 320, 427, dtype=torch.long)
            return torch.inference_mode()(lambda: model.model.backbone(pixels, mask))

        return {
            "clip": clip(root / "clip"),
            "owlv2": detector("OWLv2 ViT-B/16 (480 px)", _owlv2(root / "owl"), owl_backbone),
            "grounding_dino": detector(
                "Grounding DINO Swin-T", _grounding_dino(root / "dino"), dino_backbone
            ),
        }


if __name__ == "__main__":
    run()
