"""Stages `align`, `instruct`, `refine`, `loosen`: a LLaVA-class model that describes, grounds and names.

Every question about a scene is a branch of one row: it sees the image and itself, and its positions start
behind the image, so training on a row of a dozen questions is exactly training on a dozen conversations, at
the cost of one image. Exact boxes are learnt against a Gaussian of three bins over the location tokens
instead of one hot bin; loose boxes by plain cross entropy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from spr.scenes.recipe.architectures import PATCHES, WIDTH, build_mllm
from spr.scenes.recipe.data import NUMBER
from spr.scenes.recipe.dense import NOTHING, owners, pixels
from spr.scenes.recipe.loop import Schedule, Workshop, train_stage
from spr.scenes.recipe.questions import Turn, described, loosened, turns
from spr.scenes.recipe.vocabulary import BINS

BLUR = 3.0  # bins: standard deviation of the target over location tokens while exact boxes are learnt
IGNORED = -100
HIDDEN = -1e9
# ids, labels, branch (0 = the shared image, -1 = padding), positions
Row: TypeAlias = tuple[list[int], list[int], list[int], list[int]]


def blurred(logits: Tensor, bins: Tensor) -> Tensor:
    """Cross entropy of (n, BINS) logits with a Gaussian around the right bins (n,)."""
    weight = torch.exp(-((torch.arange(BINS) - bins[:, None].float()) ** 2) / (2 * BLUR**2))
    return -(weight / weight.sum(1, keepdim=True) * torch.log_softmax(logits, -1)).sum(1)


class Aligned(nn.Module):
    """The MLLM with five linear maps from a projected patch to its noun and its four location tokens."""

    def __init__(self, mllm: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.mllm = mllm
        self.heads = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(5)])

    def forward(self, x: Tensor, inside: Tensor, first: int) -> tuple[Tensor, list[Tensor]]:
        """Logits over words (n, words) and four times over locations (n, BINS), of the patches `inside`.
        `first`: the first location token.
        """
        table: Tensor = self.mllm.get_input_embeddings().get_parameter("weight")
        with torch.autocast("cpu", torch.bfloat16):
            out = self.mllm.model.get_image_features(pixel_values=x).pooler_output
            patches = torch.stack(list(out)).reshape(len(x), PATCHES, -1)[inside]
            noun, *sides = self.heads
            named = noun(patches) @ table[:first].T * 4
            placed = [side(patches) @ table[first : first + BINS].T * 4 for side in sides]
        return named.float(), [p.float() for p in placed]


def train_align(shop: Workshop, steps: int) -> None:
    """Patches name their thing and its place, through linear maps onto the language model's own
    embeddings.
    """
    torch.manual_seed(0)
    mllm, processor = build_mllm()
    mllm.set_attn_implementation("eager")
    mllm.model.vision_tower.load_state_dict(shop.part("dense", "tower."))
    model, data, tokenizer = Aligned(mllm), shop.set("train"), processor.tokenizer
    for p in mllm.model.language_model.layers.parameters():
        p.requires_grad_(False)
    first = tokenizer.get_vocab()["<loc_0>"]
    last_token = torch.tensor(
        [tokenizer(f" {noun}", add_special_tokens=False)["input_ids"][-1] for noun in NUMBER]
    )
    nouns, boxes = owners(data.seen)

    def loss_at(step: int) -> tuple[Tensor, Mapping[str, float]]:
        pick = shop.draw("align", step, len(data.seen), 64)
        inside = nouns[pick] != NOTHING
        named, placed = model(pixels(data.images[pick]), inside, first)
        truth = last_token[nouns[pick][inside]]
        bins = (boxes[pick][inside] * BINS).long().clamp(0, BINS - 1)
        where = torch.stack([blurred(p, bins[:, i]).mean() for i, p in enumerate(placed)]).mean()
        off = torch.stack(
            [(p.argmax(-1) - bins[:, i]).abs().float().median() for i, p in enumerate(placed)]
        ).mean()
        right = (named.argmax(-1) == truth).float().mean()
        return functional.cross_entropy(named, truth) + where, {
            "right_nouns": right.item(),
            "bins_off": off.item(),
        }

    train_stage("align", model, loss_at, Schedule(shop.steps(steps), 1e-3), shop.folder)


# --- rows of questions ----------------------------------------------------------------------------


class Rows:
    """Writes scenes with their questions as rows of tokens."""

    def __init__(self, tokenizer: Any) -> None:
        vocabulary = tokenizer.get_vocab()
        self._tokenizer = tokenizer
        self._image, self._ask, self._end = (
            vocabulary["<image>"],
            vocabulary["<|assistant|>"],
            vocabulary["</s>"],
        )
        self._start = [vocabulary["<s>"], vocabulary["<|user|>"]]
        self.first = vocabulary["<loc_0>"]

    def row(self, images: int, questions: Sequence[Turn]) -> Row:
        """The row of a scene."""
        ids = self._start + [self._image] * (PATCHES * images)
        shared = len(ids)
        labels, branch, positions = [IGNORED] * shared, [0] * shared, list(range(shared))
        tokens = self._tokenizer([text for turn in questions for text in turn], add_special_tokens=False)[
            "input_ids"
        ]
        for number in range(1, len(questions) + 1):
            asked, said = [*tokens[2 * number - 2], self._ask], [*tokens[2 * number - 1], self._end]
            ids += asked + said
            labels += [IGNORED] * len(asked) + said
            branch += [number] * len(asked + said)
            positions += range(shared, shared + len(asked + said))
        return ids, labels, branch, positions

    @staticmethod
    def batch(rows: Sequence[Row]) -> dict[str, Tensor]:
        """Rows as tensors, padded right; the mask (0 or HIDDEN, added to the attention's logits) lets a
        branch see the image and itself.
        """
        longest = max(len(r[0]) for r in rows)
        ids, labels, branch, positions = (
            torch.tensor([r[i] + [fill] * (longest - len(r[0])) for r in rows])
            for i, fill in enumerate((0, IGNORED, -1, 0))
        )
        causal = torch.ones(longest, longest, dtype=torch.bool).tril()
        mask = causal & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
        added = torch.where(mask[:, None], 0.0, HIDDEN).to(torch.bfloat16)
        return {"input_ids": ids, "labels": labels, "attention_mask": added, "position_ids": positions}


def loss_of(
    model: LlavaForConditionalGeneration, b: Mapping[str, Tensor], x: Tensor, first: int, blur: bool
) -> Tensor:
    """Mean over the answers' tokens. With `blur`, location tokens are learnt against a Gaussian, plus the
    chance of saying a location at all.
    """
    with torch.autocast("cpu", torch.bfloat16):
        inputs = {name: b[name] for name in ("input_ids", "attention_mask", "position_ids")}
        hidden = model.model(pixel_values=x, use_cache=False, **inputs).last_hidden_state
        target = b["labels"][:, 1:]
        keep = target != IGNORED
        logits = model.lm_head(hidden[:, :-1][keep]).float()
    target = target[keep]
    if not blur:
        return functional.cross_entropy(logits, target)
    place = target >= first
    inside = blurred(logits[place][:, first:], target[place] - first)
    some = torch.logsumexp(logits[place], 1) - torch.logsumexp(logits[place][:, first:], 1)
    total: Tensor = (
        functional.cross_entropy(logits[~place], target[~place], reduction="sum") + (inside + some).sum()
    )
    return total / len(target)


def train_answers(
    shop: Workshop, name: str, steps: int, start: str, rate: float, fade: float = 0.0, loose: bool = False
) -> None:
    """Train on questions, from the weights of stage `start`. Scenes of few things fade out over the first
    share `fade` of the steps.
    """
    torch.manual_seed(0)
    model, processor = build_mllm()
    model.set_attn_implementation("eager")
    model.load_state_dict(shop.part(start, "mllm." if start == "align" else ""))
    rows, schedule = (
        Rows(processor.tokenizer),
        Schedule(shop.steps(steps), rate, warmup=150, weight_decay=0.05, slow="vision_tower"),
    )
    sets = {split: shop.set(split) for split in ("train", "easy", "regions")}

    def loss_at(step: int) -> tuple[Tensor, Mapping[str, float]]:
        rng = random.Random(f"{name}/{step}")
        easy = max(0.0, 1 - step / schedule.steps / fade) if fade else 0.0
        split = "regions" if rng.random() < 0.1 else "easy" if rng.random() < easy else "train"
        data = sets[split]
        pick = shop.draw(name, step, len(data.seen), 12 if split == "regions" else 16)
        made, images = [], data.images[pick]
        for seen in (data.seen[i] for i in pick):
            things = seen.held if split == "regions" else seen.things
            things = loosened(things, seen.frame, rng) if loose else things
            made.append(
                rows.row(2, [described(seen, things, rng)])
                if split == "regions"
                else rows.row(1, turns(things, seen.frame, rng))
            )
        if data.crops is not None:
            images = np.stack([images, data.crops[pick]], 1).reshape(-1, *images.shape[1:])
        loss = loss_of(model, Rows.batch(made), pixels(images), rows.first, blur=not loose)
        # the same columns at every step
        return loss, {f"loss_{s}": loss.item() if s == split else math.nan for s in sets}

    train_stage(name, model, loss_at, schedule, shop.folder)
