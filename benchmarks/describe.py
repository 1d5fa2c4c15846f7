"""Describing, ours beside transformers' generate() on the same model, in one run: one region (`per_item`),
and four regions of four images at once (`throughput`). 4 prompts x 2 samples each.

Two baselines: one generate() per prompt (num_return_sequences = 2), and one generate() over the left-padded
batch of all prompts. Equality first: the greedy answers of all three must be the same tokens, and of the
drawn ones at least 99 % those of generate() per prompt with our noise. Then the median processor time (one
thread) of sampling 60 tokens per answer, in turn; stop tokens are switched off, so that all three write
equally many. Random weights of real classes; sizes are printed. The embedded model is so small that most of
a step is Python, which all three share.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.utils import logging

from spr.models.generate import GenerateDecoder
from spr.models.hf_mllm import HFDescriber
from spr.models.loading import save_checkpoint
from spr.scenes.recipe.architectures import build_mllm
from spr.scenes.recipe.vocabulary import build_tokenizer
from spr.stages.prompts import TEMPLATES
from spr.types import Query, Sampling

t: Any = transformers  # many of its classes have no types
hf_logging: Any = logging
TOKENS, EQUAL = 60, 0.99
NAMES = ("plain", "list", "look", "tell")


def _image(side: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def medium() -> tuple[Any, Any]:
    """576 image tokens: vision 12 x 384, language 8 x 512."""
    tokenizer = build_tokenizer()
    vision = t.CLIPVisionConfig(
        hidden_size=384,
        intermediate_size=1536,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=336,
        patch_size=14,
    )
    ends = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    size = {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    }
    text = t.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **size, **ends)
    config = t.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=576,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    build = t.LlavaProcessor
    images = t.CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = build(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return t.LlavaForConditionalGeneration(config), processor


class Contest:
    """One model, three ways to describe regions with it, each of an image of its own."""

    def __init__(self, build: Callable[[], tuple[Any, Any]], regions: int, batching: str) -> None:
        torch.manual_seed(0)
        images = {str(k): _image(224, k) for k in range(regions)}
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(*build(), folder)
            self.ours, self.theirs = (
                HFDescriber(folder, load_image=images.__getitem__, batching=b) for b in (batching, "per_item")
            )
        self.theirs.encoder.keeps_raw = True
        self.theirs._decoder = GenerateDecoder(self.theirs.model, frozenset(), self.ours.pad)
        for describer in (self.ours, self.theirs):
            describer.stops = describer._decoder.stops = frozenset()
            describer.model.generation_config.eos_token_id = None
        region = "[100, 120, 600, 700]"
        prompts = [(name, TEMPLATES[name].text.format(region=region)) for name in NAMES]
        self.queries = [
            Query(f"{k}/{name}", k, 224, 224, prompt, None, k) for k in images for name, prompt in prompts
        ]
        self.texts = [self.ours.prompt(q) for q in self.queries]
        self.images = [images[q.image] for q in self.queries]
        self.model: Any = self.ours.model
        self.processor = self.ours.processor
        self.processor.tokenizer.padding_side = "left"

    def describe(self, sampling: Sampling) -> list[list[str]]:
        """Ours, with nothing remembered from before."""
        self.ours.encoder.forget()
        return [[a.text for a in answers] for answers in self.ours.answer(self.queries, sampling)]

    def same_noise(self, sampling: Sampling) -> list[list[str]]:
        """generate() per prompt, its tokens chosen as ours are."""
        return [[a.text for a in answers] for answers in self.theirs.answer(self.queries, sampling)]

    def _generate(self, texts: Sequence[str], images: Sequence[Image.Image], sampling: Sampling) -> list[str]:
        inputs = self.processor(
            text=list(texts), images=list(images), return_tensors="pt", padding=True, add_special_tokens=False
        )
        drawn = (
            {"do_sample": True, "temperature": 1.0, "top_p": sampling.top_p, "top_k": 0}
            if sampling.temperature
            else {"do_sample": False}
        )
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                max_new_tokens=sampling.max_new_tokens,
                num_return_sequences=sampling.n,
                pad_token_id=self.ours.pad,
                **drawn,
            )
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        hidden = {self.ours.pad, self.processor.tokenizer.bos_token_id, self.processor.tokenizer.eos_token_id}
        return [
            self.processor.tokenizer.decode(
                [t for t in ids if t not in hidden], skip_special_tokens=False
            ).strip()
            for ids in new
        ]

    def one_by_one(self, sampling: Sampling) -> list[list[str]]:
        """generate() per prompt."""
        return [self._generate([t], [i], sampling) for t, i in zip(self.texts, self.images, strict=True)]

    def batched(self, sampling: Sampling) -> list[list[str]]:
        """generate() over all prompts."""
        found = self._generate(self.texts, self.images, sampling)
        return [found[i : i + sampling.n] for i in range(0, len(found), sampling.n)]


def _contest(
    name: str, build: Callable[[], tuple[Any, Any]], regions: int, batching: str, rounds: int
) -> dict[str, Any]:
    contest = Contest(build, regions, batching)
    greedy = Sampling(n=1, temperature=0, max_new_tokens=TOKENS)
    reference = contest.one_by_one(greedy)
    assert contest.describe(greedy) == reference == contest.batched(greedy), f"{name}: greedy answers differ"
    drawn = Sampling(n=2, temperature=1.0, top_p=0.95, max_new_tokens=TOKENS)
    texts = [
        list(itertools.chain.from_iterable(way(drawn))) for way in (contest.describe, contest.same_noise)
    ]
    equal = statistics.fmean(a == b for a, b in zip(*texts, strict=True))
    assert equal >= EQUAL, f"{name}: {equal:.0%} of the drawn answers are equal"
    ways = {
        "ours": contest.describe,
        "generate per prompt": contest.one_by_one,
        "generate, batched": contest.batched,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, work in ways.items():
            begin = time.process_time()
            work(drawn)
            seconds[way].append(time.process_time() - begin)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    millions = sum(p.numel() for p in contest.model.parameters()) / 1e6
    row: dict[str, Any] = {
        "parameters_m": round(millions, 1),
        "prompt_tokens": len(contest.ours.row(contest.queries[0]).ids),
        "regions": regions,
        "batching": batching,
        "greedy_equal": True,
        "drawn_equal": equal,
    }
    row |= {f"{way}_s": round(value, 3) for way, value in medians.items()}
    row["ratio_per_prompt"] = round(medians["generate per prompt"] / medians["ours"], 2)
    row["ratio_batched"] = round(medians["generate, batched"] / medians["ours"], 2)
    print(
        f"{name:42} {millions:>7.1f} M {row['prompt_tokens']:>6} {medians['ours']:>9.2f} s "
        f"{medians['generate per prompt']:>12.2f} s"
        f" {row['ratio_per_prompt']:>6.2f}x {medians['generate, batched']:>11.2f} s "
        f"{row['ratio_batched']:>6.2f}x   equal    {equal:.0%}"
    )
    return row


def run() -> dict[str, Any]:
    """Print the table and return its numbers."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    torch.set_num_threads(1)
    print("describe: 4 prompts x 2 samples x 60 tokens a region; generate() per prompt, and over all prompts")
    print(
        f"{'':42} {'size':>9} {'prompt':>6} {'ours':>11} {'per prompt':>14} {'ratio':>7} {'batched':>13} "
        f"{'ratio':>7}   greedy   drawn"
    )
    return {
        f"{model}_{regions}": _contest(f"{about}, {regions} x {batching}", build, regions, batching, rounds)
        for model, about, build in (
            ("embedded", "embedded (64 image tokens)", build_mllm),
            ("medium", "LLaVA (576 image tokens)", medium),
        )
        for regions, batching, rounds in ((1, "per_item", 5), (4, "throughput", 3))
    }


if __name__ == "__main__":
    run()
