"""What a GPU says: equality first, then describing, scoring, training and masks, in at most 8 minutes.

    python -m benchmarks.gpu                       # from the repository root
    python -m benchmarks.gpu --parts equal,train   # only these, in this order
    python -m benchmarks.gpu --cpu-smoke           # the same code on tiny models, without a GPU, in seconds

Nothing is downloaded: models of the published sizes of Qwen2.5-VL 3B and 7B, CLIP ViT-L/14-336, Grounding
DINO base and OWLv2 base are made on the device with seeded random weights; tokenizers are trained on the
spot, while the head keeps the published vocabulary. The models are handed to the package in the place where
it would load a checkpoint; everything after that is what users run. Pictures are noise of 640 x 480 pixels.

Every line of the output is one figure as JSON, printed at once, so that a run that is cut still counts. A
figure that fails has `error`, one that does not fit into the time `skipped`, and the next one goes on. Times
are wall-clock, with the device synchronised. Needs torch and what `spr.models` and `spr.training` import;
TRL only for its own figures.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import importlib.util
import inspect
import itertools
import json
import math
import os
import pkgutil
import platform
import signal
import statistics
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from spr.store.progress import Progress
from spr.training.masks import block_mask, seen
from spr.training.packing import Row, branch, grow
from spr.types import Box, Query, Sampling, Score, TrainingPair

t: Any = transformers  # many of its classes have no types
GB = 2**30
# dense bf16 FLOP/s of the makers' data sheets, by a part of the device's name; the first that fits counts
PEAKS: Mapping[str, float] = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "H20": 148e12,
    "GH200": 989e12,
    "H800": 989e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "L40": 181e12,
    "L4": 121e12,
}
SCORE = Score(0.5, 0.3, 0.3, 0.3, 0.7)
WORDS = ("cat", "dog", "car", "tree", "apple", "bus", "cow", "horse", "sheep", "boat", "small", "large")
PROMPTS = (
    "Describe the objects in the region {region} in detail, with their locations.",
    "What is in the region {region}? Describe every object and give its location.",
    "Look at the region {region} and describe what you see there, with a box for each object.",
    "Tell me about the area {region} of the image in detail. Point to each object.",
)


class Overtime(BaseException):
    """A figure ran past the time of its part. No Exception, so that no library swallows it."""


def _overtime(*_: Any) -> None:
    raise Overtime


class Bench:
    """Prints figures, keeps the time, and knows the device. `smoke`: tiny sizes."""

    def __init__(self, seconds: float, smoke: bool, begin: float | None = None) -> None:
        self.begin = time.monotonic() if begin is None else begin
        self.end = self.part_end = self.begin + seconds
        self.smoke = smoke
        self.device = "cpu" if smoke or not torch.cuda.is_available() else "cuda"
        self.matmul: float | None = None  # FLOP/s that a large bf16 product reaches
        self.peak_flops: float | None = None

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU to measure."""
        return self.device == "cuda"

    def print(self, figure: str, **values: Any) -> None:
        """One line of JSON. Floats are rounded to four digits."""
        line = {"figure": figure, **values, "at_s": time.monotonic() - self.begin}
        print(json.dumps({k: _rounded(v) for k, v in line.items()}), flush=True)

    def attempt(
        self, figure: str, work: Callable[[], Mapping[str, Any]], seconds: float, **about: Any
    ) -> bool:
        """Print what `work` finds. Skipped when less than `seconds`, what it usually takes, are left."""
        left = self.part_end - time.monotonic()
        if not self.smoke and left < seconds:
            self.print(figure, **about, skipped=f"needs about {seconds:.0f} s, has {left:.0f} s")
            return False
        before = signal.signal(signal.SIGALRM, _overtime)
        # a figure may overrun its part somewhat, never the whole run
        until = min(self.end, self.part_end + 20)
        signal.setitimer(signal.ITIMER_REAL, max(1.0, until - time.monotonic()))
        self.reset()
        failed: str | None = None
        found: Mapping[str, Any] = {}
        try:
            found = work()
        except Overtime:
            failed = "out of time"
        except Exception as error:
            failed = _why(error)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self.print(figure, **about, **(found if failed is None else {"error": failed}))
        self.free()
        return failed is None

    # --- the device -------------------------------------------------------------------------------

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def reset(self) -> None:
        """Forget the peak of the memory."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def free(self) -> None:
        """Give memory of dead objects back."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def memory(self, peak: bool = True) -> float | None:
        """GB that tensors take on the device, now or at most since `reset`."""
        if not self.cuda:
            return None
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / GB

    def seconds(self, work: Callable[[], Any], rounds: int = 1) -> float:
        """Median wall-clock seconds of some calls, with everything done that was asked of the device."""
        found = []
        for _ in range(rounds):
            self.sync()
            begin = time.perf_counter()
            work()
            self.sync()
            found.append(time.perf_counter() - begin)
        return statistics.median(found)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _why(error: Exception) -> str:
    """Error and the last places it passed, in one short line."""
    tail = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in reversed(tail))
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:240]} | {places}"


@contextlib.contextmanager
def timed(*names: str) -> Iterator[dict[str, float]]:
    """Within: host seconds that pass in functions of these dotted names."""
    spent = dict.fromkeys(names, 0.0)

    def watched(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - begin

        return wrapper

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(patch(name, watched(name, pkgutil.resolve_name(name))))
        yield spent


# --- models ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """A Qwen2.5-VL: its language model, and where its tower differs from the published one."""

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    vision: Mapping[str, Any] = field(default_factory=dict)
    picture: tuple[int, int] = (640, 480)

    @property
    def linear(self) -> int:
        """Weights of the linear layers of the language model, without the head."""
        head = self.width // self.heads
        attention = 2 * self.width * self.heads * head + 2 * self.width * self.kv_heads * head
        return self.layers * (attention + 3 * self.width * self.inner)


# config.json of Qwen/Qwen2.5-VL-3B-Instruct and -7B-Instruct; towers of both are alike
QWEN_3B = Size("3B", 2048, 11008, 36, 16, 2, 151936, True)
QWEN_7B = Size("7B", 3584, 18944, 28, 28, 4, 152064, False)
VISION: Mapping[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_SMALL_VISION: Mapping[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "window_size": 56,
    "fullatt_block_indexes": [1],
}
TINY = Size("tiny", 64, 96, 2, 4, 2, 512, False, _SMALL_VISION, (112, 84))
SMALL = Size("small", 256, 512, 4, 4, 2, 512, False, _SMALL_VISION, (112, 84))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for p in m['content'] %}{% if p['type'] == "
    "'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p['text'] }}{% endif %}{% endfor "
    "%}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat_tokenizer() -> Any:
    """Byte-level BPE of a few hundred tokens with Qwen's special tokens and chat template."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<unk>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    train: Any = trainers.BpeTrainer
    corpus = [f"user assistant {' '.join(WORDS)} 0123456789", *PROMPTS]
    raw.train_from_iterator(
        corpus,
        train(
            vocab_size=480,
            special_tokens=[AddedToken(s, special=True, normalized=False) for s in special],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return t.PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        chat_template=CHATML,
    )


def qwen(size: Size, device: str, dtype: torch.dtype, spread: float | None = 8.0) -> tuple[Any, Any]:
    """A Qwen2.5-VL with seeded random weights, made on the device, and its processor.

    `spread`: deviation of its logits, so that next tokens are as sure as a trained model's; None: far from
    uniform in all layers, for comparisons.
    """
    from spr.models.loading import without_video

    tokenizer = chat_tokenizer()
    token = tokenizer.convert_tokens_to_ids
    text = {
        "hidden_size": size.width,
        "intermediate_size": size.inner,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "vocab_size": size.vocabulary,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    # 16, 24 and 24 of the 64 pairs of a published head
    pairs = size.width // size.heads // 2
    section = [pairs // 4, 3 * pairs // 8, pairs - pairs // 4 - 3 * pairs // 8]
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}
    config = t.Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope},
        vision_config={**VISION, **size.vision, "out_hidden_size": size.width},
        tie_word_embeddings=size.tied,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = t.AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation="sdpa")
    with torch.no_grad():
        if spread is None:
            for p in model.parameters():
                p.mul_(3.0 if p.ndim > 1 else 1.0)
        else:
            model.get_decoder().norm.weight.fill_(spread / (0.02 * size.width**0.5))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    # limits of the published processor: 4 to 16,384 image tokens
    limits = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
    images = t.Qwen2VLImageProcessorPil(size=limits, patch_size=14, merge_size=2)
    processor = without_video(t.Qwen2_5_VLProcessor)(images, tokenizer, chat_template=CHATML)
    return model.eval(), processor


def picture(size: tuple[int, int]) -> Callable[[str], Image.Image]:
    """A loader of pictures of noise, (width, height), one for each path."""

    def load(path: str) -> Image.Image:
        rng = np.random.default_rng(sum(map(ord, path)))
        return Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))

    return load


def describer_of(model: Any, processor: Any, size: Size, device: str) -> Any:
    """The package's describer around a model, that never stops early."""
    from spr.models.hf_mllm import HFDescriber

    with patch("spr.models.hf_mllm.load_mllm", lambda *_: (model, processor)):
        made: Any = HFDescriber("random weights", picture(size.picture), device, batching="throughput")
    made.stops = made._decoder.stops = frozenset()
    return made


def queries_of(images: int, per_image: int, size: Size) -> list[Query]:
    """Questions about regions, several for each image."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(images):
        for k in range(per_image):
            region = rng.integers(0, 400, 4).tolist()
            prompt = PROMPTS[k % len(PROMPTS)].format(region=region)
            found.append(Query(f"{i}/{k}", f"image{i}", *size.picture, prompt))
    return found


# --- (a) equality ---------------------------------------------------------------------------------


def generated(
    describer: Any, queries: Sequence[Query], sampling: Sampling, seconds: list[float] | None = None
) -> list[list[int]]:
    """transformers' generate() over the left-padded batch of all prompts: new tokens of each sample.
    `seconds` receives those that pass in the processor.
    """
    begin = time.perf_counter()
    describer.processor.tokenizer.padding_side = "left"
    inputs = describer.processor(
        text=[describer.prompt(q) for q in queries],
        images=[describer.load_image(q.image) for q in queries],
        return_tensors="pt",
        padding=True,
    )
    placed = {
        k: v.to(describer.model.device, describer.model.dtype if v.is_floating_point() else None)
        for k, v in inputs.items()
    }
    if seconds is not None:
        seconds.append(time.perf_counter() - begin)
    drawn: dict[str, Any] = {"do_sample": False}
    if sampling.temperature:
        drawn = {"do_sample": True, "temperature": 1.0, "top_p": sampling.top_p, "top_k": 0}
    with torch.inference_mode():
        out = describer.model.generate(
            **placed,
            max_new_tokens=sampling.max_new_tokens,
            num_return_sequences=sampling.n,
            pad_token_id=describer.pad,
            **drawn,
        )
    found: list[list[int]] = out[:, placed["input_ids"].shape[1] :].tolist()
    return found


def greedy_tokens(bench: Bench) -> dict[str, Any]:
    """Greedy tokens of our decoder against generate(), alone and in a shared batch."""
    size = TINY if bench.smoke else SMALL
    model, processor = qwen(size, bench.device, torch.float32, spread=None)
    describer = describer_of(model, processor, size, bench.device)
    queries = queries_of(2, 3, size)
    sampling = Sampling(temperature=0, max_new_tokens=8 if bench.smoke else 32)

    answers, written = describer._flow.answers, dict[int, list[int]]()

    def watched(*about: Any) -> Iterator[Any]:
        for task, tokens in answers(*about):
            written[task.name] = list(tokens[0].ids)
            yield task, tokens

    describer._flow.answers = watched

    def ours(group: Sequence[Query]) -> list[list[int]]:
        written.clear()
        describer.answer(group, sampling)
        return [written[number] for number in range(len(group))]

    reference = [generated(describer, [q], sampling)[0] for q in queries]
    ways = {
        "ours_alone": [ours([q])[0] for q in queries],
        "ours_batched": ours(queries),
        "ours_one_image": [*ours(queries[:3]), *ours(queries[3:])],
        "generate_batched": generated(describer, queries, sampling),
    }
    equal = {way: sum(a == b for a, b in zip(found, reference, strict=True)) for way, found in ways.items()}
    distinct = len({token for answer in reference for token in answer})
    everything = all(count == len(queries) for count in equal.values())
    return {"equal": everything, "answers": len(queries), **equal, "distinct_tokens": distinct}


def packed_training(bench: Bench) -> dict[str, Any]:
    """Loss and gradients of packed rows against those of plain rows with pixel values."""
    from spr.models.loading import quiet_peft
    from spr.training.adapter import attach
    from spr.training.config import TrainConfig
    from spr.training.encode import Encoder
    from spr.training.families import family_of
    from spr.training.features import FeatureStore
    from spr.training.loss import Ratios, dpo
    from spr.training.plan import units_of
    from spr.training.policy import Images, Policy

    size = TINY if bench.smoke else SMALL
    model, processor = qwen(size, bench.device, torch.float32, spread=None)
    case = Case("equality", per_image=2, prompt=20, answer=30, batch=4, steps=1)
    with quiet_peft():
        peft = attach(model, TrainConfig(lora_r=4))
    for name, p in peft.named_parameters():
        if "lora_B" in name:  # starts at zero, where policy and reference agree
            torch.nn.init.normal_(p, std=0.02)
    encoder = Encoder(model, processor, picture(size.picture))
    family = family_of(model)
    encoded = [encoder.encode(p) for p in case.pairs(processor.tokenizer, size)]

    def measured(plain: bool) -> tuple[float, dict[str, torch.Tensor]]:
        used = replace(family, layout=None) if plain else family
        units = units_of(encoded, used, "none" if plain else "tree", 100_000)
        keys = [a for unit in units for a in unit.answers]
        with torch.no_grad(), peft.disable_adapter():
            before = policy.log_probs(peft, units, used)
        found = policy.log_probs(peft, units, used)
        ratios = {k: (f - b).sum() for k, f, b in zip(keys, found, before, strict=True)}
        sides = [torch.stack([ratios[i, chosen] for i in range(len(encoded))]) for chosen in (True, False)]
        loss = dpo(Ratios(*sides), 0.1).sum()
        peft.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach()), {
            n: p.grad.clone() for n, p in peft.named_parameters() if p.grad is not None
        }

    with contextlib.closing(
        Policy(model, family, encoder, Images(model, encoder, FeatureStore(64)))
    ) as policy:
        packed, plain = measured(False), measured(True)
    largest = max(float(g.abs().max()) for g in plain[1].values())
    worst = max(float((packed[1][n] - g).abs().max()) for n, g in plain[1].items()) / largest
    difference = abs(packed[0] - plain[0]) / abs(plain[0])
    return {
        "equal": packed[1].keys() == plain[1].keys() and worst < 1e-3 and difference < 1e-4,
        "loss": plain[0],
        "loss_difference": difference,
        "gradient_difference": worst,
        "gradients": len(plain[1]),
    }


def region_scores(bench: Bench) -> dict[str, Any]:
    """Cosines and detections on the device against those on the CPU, float32."""
    found: dict[str, Any] = {"equal": True}
    for name in ("clip", "owlv2", "grounding_dino"):
        on_cpu = region_model(name, "cpu", True)
        on_device = (copy.deepcopy(on_cpu[0]).to(bench.device), on_cpu[1])
        sides = [np.concatenate(_scores(name, *on_cpu, "cpu")), np.concatenate(_scores(name, *on_device))]
        worst = float(np.abs(sides[0] - sides[1]).max())
        found |= {f"{name}_difference": worst, f"{name}_values": len(sides[0])}
        found["equal"] &= worst < 1e-3
    return found


def _scores(name: str, model: Any, processor: Any, device: str = "cuda") -> list[np.ndarray[Any, Any]]:
    adapter = region_adapter(name, model, processor, device, (96, 72))
    regions: list[Box] = [(5.0, 5.0, 60.0, 50.0), (30.0, 20.0, 90.0, 70.0)]
    texts = ["a cat and a dog", "a small boat"]
    if name == "clip":
        return list(adapter.similarities("a", regions, texts, [(r, k) for r in (0, 1) for k in (0, 1)]))
    adapter.threshold = -1.0
    # sorted values: where scores tie, the order of boxes is chance
    return [np.sort([d.score for d in ds]) for ds in adapter.detect("a", ["a cat", "a small boat"])]


def equality(bench: Bench) -> None:
    """Part (a)."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    bench.attempt("equal_greedy", lambda: greedy_tokens(bench), 5)
    bench.attempt("equal_training", lambda: packed_training(bench), 5)
    bench.attempt("equal_scores", lambda: region_scores(bench), 5)
    torch.backends.cudnn.allow_tf32 = True


# --- (b) describing -------------------------------------------------------------------------------


def describing(bench: Bench) -> None:
    """Part (b)."""
    for size in (TINY,) if bench.smoke else (QWEN_3B, QWEN_7B):
        made: list[Any] = []

        def build(size: Size = size, made: list[Any] = made) -> dict[str, Any]:
            seconds = bench.seconds(lambda: made.append(qwen(size, bench.device, _type(bench))))
            billions = sum(p.numel() for p in made[0][0].parameters()) / 1e9
            return {"seconds": seconds, "parameters_b": billions, "weights_gb": bench.memory(peak=False)}

        if bench.attempt("build", build, 15, model=size.name):
            for images in (2,) if bench.smoke else (4, 16):

                def work(size: Size = size, made: list[Any] = made, images: int = images) -> dict[str, Any]:
                    return describe(bench, size, made[0][0], made[0][1], images)

                bench.attempt("describe", work, 25, model=size.name)
        made.clear()
        bench.free()


def _type(bench: Bench) -> torch.dtype:
    return torch.float32 if bench.smoke else torch.bfloat16


def describe(bench: Bench, size: Size, model: Any, processor: Any, images: int) -> dict[str, Any]:
    """Tokens per second of our describer and of batched generate(): 4 prompts for each of some images, 2
    samples each, all at once where memory suffices.
    """
    queries = queries_of(images, 4, size)
    describer = describer_of(model, processor, size, bench.device)
    sampling = Sampling(n=2, temperature=1.0, top_p=0.95, max_new_tokens=4 if bench.smoke else 64)
    prepared: list[float] = []

    def ours(sampling: Sampling = sampling) -> None:
        answers = [a for found in describer.answer(queries, sampling) for a in found]
        if failed := [a.failed for a in answers if a.failed]:
            raise RuntimeError(f"{len(failed)} answers failed: {failed[0]}")

    def rows() -> None:
        describer.encoder.forget()
        for query in queries:
            describer.row(query)

    short = replace(sampling, max_new_tokens=2)
    ours(short)
    generated(describer, queries, short)
    rounds = 1 if bench.smoke else 2
    bench.reset()
    mine = bench.seconds(ours, rounds)
    peak_ours = bench.memory()
    bench.reset()
    theirs = bench.seconds(lambda: generated(describer, queries, sampling, prepared), rounds)
    peak_theirs = bench.memory()
    preparing = bench.seconds(rows)
    first = bench.seconds(lambda: ours(replace(sampling, max_new_tokens=1)))
    tokens = len(queries) * sampling.n * sampling.max_new_tokens
    in_processor = statistics.median(prepared)
    return {
        "prompts": len(queries),
        "images": images,
        "samples": sampling.n,
        "new_tokens": sampling.max_new_tokens,
        "prompt_tokens": max(len(describer.row(q).ids) for q in queries),
        "tokens_per_s": tokens / mine,
        "generate_tokens_per_s": tokens / theirs,
        "ratio": theirs / mine,
        "ratio_without_processor": (theirs - in_processor) / (mine - preparing),
        "processor_s": preparing,
        "generate_processor_s": in_processor,
        "prefill_s": first - preparing,
        "ms_per_step": 1000 * (mine - first) / (sampling.max_new_tokens - 1),
        "peak_gb": peak_ours,
        "generate_peak_gb": peak_theirs,
    }


# --- (c) scoring ----------------------------------------------------------------------------------

_TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def word_tokenizer(start: str, end: str, ids: Mapping[str, int], length: int) -> Any:
    """Lower-case words `start … end`. `ids` fixes some ids; `end` has the largest of the others."""
    words = ("a", "and", "the", "with", "next", "to", "on", "of", ",", ".", "?", *WORDS)
    free = (i for i in range(10_000) if i not in ids.values())
    vocabulary = {w: ids[w] if w in ids else next(free) for w in ("<pad>", "<unk>", start, *words, end)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.normalizer, raw.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    raw.post_processor = TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(s, vocabulary[s]) for s in (start, end)]
    )
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": start, "eos_token": end}
    return t.PreTrainedTokenizerFast(tokenizer_object=raw, **named, model_max_length=length)


def region_model(name: str, device: str, tiny: bool) -> tuple[Any, Any]:
    """A dual encoder or detector with seeded random weights, float32, and its processor. Sizes of
    openai/clip-vit-large-patch14-336, IDEA-Research/grounding-dino-base, google/owlv2-base-patch16-ensemble.
    """
    if name == "grounding_dino":
        config, cls, processor = _grounding_dino(tiny)
    else:
        config, cls, processor = _dual(name, tiny)
    torch.manual_seed(0)
    with torch.device(device):
        model = cls(config).to(device)  # Grounding DINO makes some of its weights on the CPU
    with torch.no_grad():
        if name == "grounding_dino":  # random weights would say 0 or 1
            model.model.decoder.layer_norm.weight.mul_(0.1)
        elif name == "owlv2":
            for head in (model.class_head, model.box_head):
                for p in head.parameters():
                    torch.nn.init.normal_(p, std=0.02)
    return model.eval(), processor


def _dual(name: str, tiny: bool) -> tuple[Any, Any, Any]:
    owl = name == "owlv2"
    length, width, patch_size = (16, 512, 16) if owl else (77, 768, 14)
    side = 64 if tiny else 960 if owl else 336
    tokenizer = word_tokenizer("<s>", "</s>", {}, length)
    large: dict[str, Any] = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 12}
    text = {**(_TINY if tiny else {**large, "num_attention_heads": width // 64})}
    text |= {"vocab_size": 64 if tiny else 49408, "max_position_embeddings": length}
    text |= {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("pad", "bos", "eos")}
    wide, deep = (768, 12) if owl else (1024, 24)
    vision: dict[str, Any] = {"hidden_size": wide, "intermediate_size": 4 * wide, "num_hidden_layers": deep}
    vision |= {"num_attention_heads": wide // 64}
    vision = {**(_TINY if tiny else vision), "image_size": side, "patch_size": patch_size}
    kind = "Owlv2" if owl else "CLIP"
    settings: dict[str, Any] = {"size": {"height": side, "width": side}}
    if not owl:
        settings = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    images = getattr(t, f"{kind}ImageProcessorPil")(**settings)
    config = getattr(t, f"{kind}Config")(
        text_config=text, vision_config=vision, projection_dim=32 if tiny else width
    )
    cls = t.Owlv2ForObjectDetection if owl else t.CLIPModel
    return config, cls, getattr(t, f"{kind}Processor")(images, tokenizer)


def _grounding_dino(tiny: bool) -> tuple[Any, Any, Any]:
    # BERT's ids, which the model knows by heart
    tokenizer = word_tokenizer("[CLS]", "[SEP]", {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}, 512)
    stages = ["stage2", "stage3", "stage4"]
    swin = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12}
    vision = t.SwinConfig(**swin, image_size=384, out_features=stages)
    more: dict[str, Any] = {}
    size = {"shortest_edge": 800, "longest_edge": 1333}
    if tiny:
        swin = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 2], "window_size": 4}
        vision = t.SwinConfig(**swin, image_size=64, out_features=stages)
        more = {"text_config": t.BertConfig(**_TINY, vocab_size=1100, max_position_embeddings=64)}
        more |= {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_queries": 12}
        more |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_text_len": 12}
        more |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        size = {"shortest_edge": 64, "longest_edge": 96}
    config = t.GroundingDinoConfig(backbone_config=vision, **more)
    images = t.GroundingDinoImageProcessorPil(size=size)
    return config, t.GroundingDinoForObjectDetection, t.GroundingDinoProcessor(images, tokenizer)


def region_adapter(
    name: str,
    model: Any,
    processor: Any,
    device: str,
    size: tuple[int, int],
    dtype: str = "float32",
    batching: str = "per_item",
) -> Any:
    """The package's scorer or detector around a model, for pictures of `size` (width, height)."""
    from spr.models.clip import DualEncoderScorer
    from spr.models.detector import OpenVocabularyDetector
    from spr.models.loading import dtype_named
    from spr.types import Checkpoint

    module = "spr.models.clip" if name == "clip" else "spr.models.detector"
    cls: Any = DualEncoderScorer if name == "clip" else OpenVocabularyDetector
    with (
        patch(f"{module}.load_model", lambda *_: model.to(dtype_named(dtype))),
        patch(f"{module}.load_processor", lambda *_: processor),
    ):
        return cls(Checkpoint("random weights", dtype=dtype), picture(size), device, batching=batching)


def scoring(bench: Bench) -> None:
    """Part (c). The first way is the package's default; the last one is what one sets for speed."""
    ways = (("float32", "per_item"), ("tf32", "per_item"), ("bfloat16", "throughput"))
    for name in ("clip", "grounding_dino", "owlv2"):
        for dtype, batching in ways[::2] if bench.smoke else ways:

            def work(name: str = name, dtype: str = dtype, batching: str = batching) -> dict[str, Any]:
                return score(bench, name, dtype, batching)

            bench.attempt("score", work, 8, model=name, dtype=dtype, batching=batching)


def score(bench: Bench, name: str, dtype: str, batching: str) -> dict[str, Any]:
    """Regions per second: 2 regions per image; 8 candidates of 32 words each for the dual encoder, 8 phrases
    per region (4 of them known from the other one) for a detector. Images are expected, as the stage does;
    the image processor runs ahead in threads: its share may exceed 1.
    """
    size, images = ((96, 72), 2) if bench.smoke else ((640, 480), 12)
    model, processor = region_model(name, bench.device, bench.smoke)
    adapter = region_adapter(name, model, processor, bench.device, size, dtype, batching)
    w, h = size
    regions: list[Box] = [(0.05 * w, 0.1 * h, 0.65 * w, 0.7 * h), (0.4 * w, 0.3 * h, 0.95 * w, 0.95 * h)]
    rng = np.random.default_rng(0)
    spent = [0.0]

    def watched(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = work(*args, **kwargs)
            spent[0] += time.perf_counter() - begin
            return result

        return wrapper

    if name == "clip":
        adapter.fit.pixels = watched(adapter.fit.pixels)
    else:
        adapter.threshold = 0.9  # random scores are near one half: few boxes, as usual
        both = {"image_processor": watched(processor.image_processor), "tokenizer": processor.tokenizer}
        adapter.engine.processor = SimpleNamespace(**both)
    boxes = 0

    def run(first: int, count: int) -> None:
        nonlocal boxes
        phrases = [f"the small {word}" for word in WORDS]
        names = [f"image{i}" for i in range(first, first + count)]
        adapter.expect(dict.fromkeys(names, regions if name == "clip" else phrases))
        for image in names:
            if name == "clip":
                texts = [" ".join(rng.choice(WORDS, 32)) for _ in range(8 * len(regions))]
                adapter.similarities(image, regions, texts, [(k // 8, k) for k in range(len(texts))])
            else:
                boxes += sum(map(len, adapter.detect(image, phrases)))

    run(100, 2)
    spent[0], boxes = 0.0, 0
    bench.reset()
    seconds = bench.seconds(lambda: run(0, images))
    count = images * len(regions)
    found: dict[str, Any] = {"regions_per_s": count / seconds, "ms_per_image": 1000 * seconds / images}
    if name == "clip":
        found["candidates_per_s"] = 8 * count / seconds
    else:
        found |= {"phrases_per_s": 12 * images / seconds, "boxes_per_phrase": boxes / 12 / images}
    return {**found, "share_image_processor": spent[0] / seconds, "peak_gb": bench.memory()}


# --- (d) training ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Pairs with random words. Token counts are those of one pair."""

    name: str
    per_image: int = 1
    prompt: int = 100
    answer: int = 150
    batch: int = 32  # the package's default
    steps: int = 2  # per epoch

    def pairs(self, tokenizer: Any, size: Size) -> list[TrainingPair]:
        """All pairs of an epoch; the pairs of an image have prompts of their own."""
        rng = np.random.default_rng(0)

        def text(tokens: int) -> str:
            words = ""
            while len(tokenizer(words, add_special_tokens=False)["input_ids"]) < tokens:
                words += " " + " ".join(rng.choice(WORDS, max(1, tokens // 8)))
            return words.strip()

        found = []
        for i in range(self.batch * self.steps):
            texts = (text(self.prompt), text(self.answer), text(self.answer))
            image, region = f"image{i // self.per_image}", (0.0, 0.0, 9.0, 9.0)
            found.append(TrainingPair(str(i), image, *size.picture, region, *texts, 0.2, 0, 1, SCORE, SCORE))
        return found


class Clock(Progress):
    """When work began and advanced, with everything done that was asked of the device."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._what = ""
        self.marks: dict[str, list[float]] = {}

    def start(self, what: str, total: int, done: int = 0) -> None:
        """The first mark of a piece of work."""
        self._what = what
        self.advance(0)

    def advance(self, count: int) -> None:
        """A further mark."""
        self._bench.sync()
        self.marks.setdefault(self._what, []).append(time.perf_counter())


ENCODE, UNITS, BATCH = (
    "spr.training.prepare.Preparer.encode",
    "spr.training.loop.units_of",
    "spr.training.policy.to_batch",
)


def train_ours(
    bench: Bench, size: Size, case: Case, tokens: int, checkpointing: bool, plain: bool = False, **config: Any
) -> dict[str, Any]:
    """`spr.training.trainer.train` for two epochs: the first with images and reference, the second without.

    `plain`: the same trainer on one row per answer with pixel values, which computes per step what the usual
    trainer does (its first epoch is the baseline: two rows by the policy, two by the reference).
    """
    from spr.training.config import TrainConfig
    from spr.training.memory import memory_of
    from spr.training.trainer import train

    model, processor = qwen(size, bench.device, _type(bench))
    pairs = case.pairs(processor.tokenizer, size)
    settings = TrainConfig(
        batch=case.batch,
        epochs=1 if plain else 2,
        warmup=0.0,
        tokens=tokens,
        dtype="float32" if bench.smoke else "bfloat16",
        device="cpu" if bench.smoke else "auto",
        share="none" if plain else "tree",
        trainer={"save_strategy": "no", **({"gradient_checkpointing": True} if checkpointing else {})},
        **config,
    )
    clock = Clock(bench)

    bench.reset()
    weights = bench.memory(peak=False)
    with (
        tempfile.TemporaryDirectory() as out,
        patch("spr.training.trainer.load_mllm", lambda *_, **__: (model, processor)),
        patch("spr.training.trainer.checkpoint_digest", lambda *_: "random weights"),
        patch("spr.training.memory.read_config", lambda *_: model.config),
        timed(ENCODE, UNITS, BATCH) as host,
    ):
        result = train(pairs, "random weights", out, settings, picture(size.picture), progress=clock)
    n, steps = len(pairs), clock.marks["train"]
    reference = clock.marks["train: reference"][-1] - clock.marks["train: reference"][0]
    first = reference + steps[case.steps] - steps[0]
    figures = result.figures
    found: dict[str, Any] = {
        "rows": result.layout,
        "tokens_per_pass": tokens,
        "checkpointing": checkpointing,
        "pairs_per_s_first": n / first,
        "encode_s": host[ENCODE],
        "reference_s": reference - host[ENCODE],
        "step_s": [b - a for a, b in itertools.pairwise(steps)],
        # rows are made once per step, batches once per forward, reference included
        "host_ms_per_pair": 1000 * (host[UNITS] / settings.epochs + host[BATCH] / (settings.epochs + 1)) / n,
        "peak_gb": bench.memory(),
        "weights_gb": weights,
        "estimated_gb": memory_of(model.config, settings).total / GB,
        "dropped": dict(result.dropped),
        "loss_first_step_is_ln2": not any("ln 2" in w for w in result.warnings),
        "packed_difference": result.packed_difference,
    }
    if plain:
        return found
    later = (steps[-1] - steps[case.steps]) / n  # seconds per pair
    nodes = float(figures["tokens"] or 0) / float(figures["pairs"] or 1)
    flops = step_flops(size, nodes, case)
    found |= {
        "pairs_per_s_later": 1 / later,
        "tokens_per_pair": nodes,
        "tokens_shared": figures["tokens_shared"],
        "tflops_later": flops / later / 1e12,
        "share_of_peak_later": flops / later / bench.peak_flops if bench.peak_flops else None,
        "share_of_matmul_later": flops / later / bench.matmul if bench.matmul else None,
    }
    if checkpointing:  # what the second forward costs counts as work here
        found["tflops_later_with_recompute"] = 1.5 * flops / later / 1e12
    return found


def step_flops(size: Size, nodes: float, case: Case) -> float:
    """FLOPs per pair of a later epoch's step without recomputation: forward, and backward through frozen
    linear layers, which costs the same; attention over whole rows, whose backward costs twice its forward.
    """
    length = nodes * case.per_image
    linear = 2 * size.linear * nodes
    attention = 4 * length * nodes * size.width * size.layers
    head = 2 * size.width * size.vocabulary * 2 * case.answer
    return 2 * linear + 3 * attention + 2 * head


def train_trl(
    bench: Bench, size: Size, case: Case, checkpointing: bool, micro: int, passes: int
) -> dict[str, Any]:
    """TRL's DPOTrainer on the same pairs and adapter, weights of the same type: `micro` pairs per pass,
    `passes` of them accumulated to a step. The second step is measured. TRL opens images in every step.
    """
    import trl as library
    from datasets import Dataset, disable_progress_bars
    from datasets import Image as ImageColumn

    from spr.models.loading import quiet_peft
    from spr.training.adapter import attach
    from spr.training.config import TrainConfig
    from spr.training.encode import Encoder

    disable_progress_bars()
    model, processor = qwen(size, bench.device, _type(bench))
    weights = bench.memory(peak=False)
    load = picture(size.picture)
    encoder = Encoder(model, processor, load)
    count = 2 * micro * passes
    rows = [
        {
            "images": [load(p.image)],
            "prompt": encoder.prompt_text(p.prompt),
            "chosen": encoder.completion_text(p.prompt, p.chosen),
            "rejected": encoder.completion_text(p.prompt, p.rejected),
        }
        for p in case.pairs(processor.tokenizer, size)[:count]
    ]
    count = len(rows)
    data = Dataset.from_list(rows).cast_column("images", [ImageColumn()])
    torch.manual_seed(0)
    marks: list[float] = []
    collating: list[float] = []

    class Steps(t.TrainerCallback):  # type: ignore[misc]
        """When each step ended."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            """The first mark."""
            self.on_step_end()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            """A further mark."""
            bench.sync()
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out, quiet_peft(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        trl: Any = library
        arguments = trl.DPOConfig(
            out,
            max_length=None,
            bf16=False,
            gradient_checkpointing=checkpointing,
            disable_dropout=True,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=passes,
            num_train_epochs=1,
            learning_rate=5e-6,
            use_cpu=not bench.cuda,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = trl.DPOTrainer(
            attach(model, TrainConfig()),
            args=arguments,
            train_dataset=data,
            processing_class=processor,
            callbacks=[Steps()],
        )
        collate = trainer.data_collator

        def watched(items: Any) -> Any:
            begin = time.perf_counter()
            batch = collate(items)
            collating.append(time.perf_counter() - begin)
            return batch

        trainer.data_collator = watched
        trainer.remove_callback(t.PrinterCallback)
        bench.reset()
        trainer.train()
    steps = [b - a for a, b in itertools.pairwise(marks)]
    per_step = count / len(steps)
    return {
        "trl": library.__version__,
        "checkpointing": checkpointing,
        "pairs_per_pass": micro,
        "pairs_per_s": per_step / steps[-1],
        "pairs_per_s_without_collator": per_step / (steps[-1] - passes * statistics.median(collating)),
        "step_s": steps,
        "peak_gb": bench.memory(),
        "weights_gb": weights,
    }


ONE = Case("one pair per image")
FOUR = Case("four pairs per image", per_image=4)


def training(bench: Bench) -> None:
    """Part (d), the most important first."""
    if bench.smoke:
        one, four = (replace(case, prompt=20, answer=16, batch=4) for case in (ONE, FOUR))
        _in_memory(bench, "train", TINY, one, False, 2048)
        _in_memory(bench, "train", TINY, four, True, 2048)
        _trl(bench, TINY, one, False)
        _in_memory(bench, "train_plain_rows", TINY, one, False, 2048, plain=True)
        return
    warm = Case("warm-up", batch=4, steps=1)
    bench.attempt("warm_up", lambda: _few(train_ours(bench, QWEN_3B, warm, 4096, False)), 20)
    for size, checkpointing in ((QWEN_3B, False), (QWEN_7B, True)):
        _in_memory(bench, "train", size, ONE, checkpointing, 8192)
        _in_memory(bench, "train", size, FOUR, checkpointing, 8192)
        _trl(bench, size, ONE, checkpointing)
    _in_memory(bench, "train_plain_rows", QWEN_3B, ONE, False, 8192, plain=True)
    # what the type of the adapter's products costs
    _in_memory(bench, "train_autocast", QWEN_3B, ONE, False, 8192, autocast=True)
    _in_memory(bench, "train", QWEN_7B, ONE, False, 4096)


def _few(found: dict[str, Any]) -> dict[str, Any]:
    """What of a warm-up is worth a line."""
    return {"step_s": found["step_s"], "packed_difference": found["packed_difference"]}


def _in_memory(
    bench: Bench, figure: str, size: Size, case: Case, checkpointing: bool, tokens: int, **more: Any
) -> None:
    """A training, with fewer tokens per pass where memory does not suffice."""

    def work() -> dict[str, Any]:
        return _smaller(
            bench,
            [tokens // 2**k for k in range(4)],
            lambda budget: train_ours(bench, size, case, budget, checkpointing, **more),
        )

    seconds = 30 if size is QWEN_7B or more.get("plain") else 15
    bench.attempt(figure, work, seconds, model=size.name, case=case.name)


def _smaller(bench: Bench, sizes: Sequence[int], work: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """The work in the first of some sizes that fits into memory."""
    for size in sizes[:-1]:
        try:
            return work(size)
        except (torch.OutOfMemoryError, MemoryError):
            pass
        bench.free()
        bench.reset()
    return work(sizes[-1])


def _trl(bench: Bench, size: Size, case: Case, checkpointing: bool) -> None:
    """TRL in passes of about 8,192 tokens, or smaller ones, 24 pairs per step."""
    about = {"model": size.name, "case": case.name}
    if missing := [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]:
        bench.print("train_trl", **about, skipped=f"not installed: {', '.join(missing)}")
        return
    sizes, total = ([2], 2) if bench.smoke else ([6, 3, 1], 24)

    def work() -> dict[str, Any]:
        return _smaller(
            bench, sizes, lambda micro: train_trl(bench, size, case, checkpointing, micro, total // micro)
        )

    bench.attempt("train_trl", work, 30, **about)


# --- (e) masks ------------------------------------------------------------------------------------


def tree_row(tokens: int, image: int, prompt: int, answer: int) -> Row:
    """The row of an image with as many prompts, each with a chosen and a rejected answer, as fit into
    `tokens`; the last answer fills what is left. At least one prompt.
    """
    fresh = itertools.count()  # no token twice, so that nothing is shared by chance
    seen = list(itertools.islice(fresh, image))
    count = max(1, (tokens - image) // (prompt + 2 * answer))
    rest = max(0, tokens - image - count * (prompt + 2 * answer))
    branches = []
    for i in range(count):
        asked = [*seen, *itertools.islice(fresh, prompt)]
        positions = np.arange(len(asked), dtype=np.int64)[None]
        marks = np.arange(len(asked)) < image
        for length in (answer, answer + (rest if i == count - 1 else 0)):
            branches += [branch(asked, positions, marks, list(itertools.islice(fresh, length)))]
    return grow(branches)


def masks(bench: Bench) -> None:
    """Part (e): 28 heads, 4 of keys and values, width 128. `tree`: one row of an image with many prompts;
    `pairs`: rows of one pair each, as many as the tokens hold.
    """
    shapes = [(96, "tree"), (96, "pairs")] if bench.smoke else [(8192, "tree"), (4096, "tree")]
    shapes += [] if bench.smoke else [(8192, "pairs"), (4096, "pairs")]
    compiled: list[Any] = []
    bench.attempt("masks_equal", lambda: equal_masks(bench, compiled), 20)
    for tokens, kind in shapes:

        def work(tokens: int = tokens, kind: str = kind) -> dict[str, Any]:
            return compare_masks(bench, tokens, kind, compiled)

        bench.attempt("masks", work, 25, tokens=tokens, rows=kind)


HEADS, KV_HEADS, HEAD_WIDTH = 28, 4, 128


def attention_inputs(bench: Bench, rows: int, length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Queries (rows, heads, length, width), keys and values of noise, with gradients."""
    generator = torch.Generator(bench.device).manual_seed(0)
    q_heads, kv_heads, width = (4, 2, 16) if bench.smoke else (HEADS, KV_HEADS, HEAD_WIDTH)
    made = [
        torch.randn(rows, heads, length, width, generator=generator, device=bench.device)
        for heads in (q_heads, kv_heads, kv_heads)
    ]
    return [x.to(dtype).requires_grad_() for x in made]


def masked_sdpa(seen: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Attention with a dense mask (rows, 1, length, length), as transformers runs it: keys and values are
    repeated for the heads of queries.
    """

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    return run


def equal_masks(bench: Bench, compiled: list[Any]) -> dict[str, Any]:
    """Differences of output and gradients in float32, on a row of 1,024 tokens."""
    row = tree_row(96, 24, 6, 10) if bench.smoke else tree_row(1024, 391, 50, 75)
    inputs = attention_inputs(bench, 1, len(row), torch.float32)
    sdpa = masked_sdpa(seen([row], len(row), device=bench.device)[:, None])
    outputs = [_with_gradients(bench, w, inputs) for w in (_flex(bench, row, compiled)[0], sdpa)]
    found = _differences(*outputs)
    return {"equal": max(found) < 1e-4, "differences_float32": found, "row_length": len(row)}


def compare_masks(bench: Bench, tokens: int, kind: str, compiled: list[Any]) -> dict[str, Any]:
    """Attention with our dense mask against FlexAttention with a block mask of the same tree: milliseconds
    forward and backward, and the largest difference of outputs and gradients.
    """
    image, prompt, answer = (24, 6, 10) if bench.smoke else (391, 100, 150)
    row = tree_row(tokens if kind == "tree" else 0, image, prompt, answer)
    rows = 1 if kind == "tree" else tokens // len(row)
    begin = time.perf_counter()
    dense = seen([row], len(row), device=bench.device)
    bench.sync()
    dense_ms = 1000 * (time.perf_counter() - begin)
    mask = dense[:, None].expand(rows, 1, -1, -1).contiguous()
    inputs = attention_inputs(bench, rows, len(row), _type(bench))
    sdpa = masked_sdpa(mask)

    def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    bench.reset()
    found: dict[str, Any] = {
        "row_length": len(row),
        "row_count": rows,
        "visible_share": float(dense.float().mean()),
        "dense_mask_mb": mask.nbytes / 2**20,
        "dense_mask_ms": dense_ms,
        "sdpa_ms": _milliseconds(bench, sdpa, inputs),
        "sdpa_peak_gb": bench.memory(),
        "causal_ms": _milliseconds(bench, causal, inputs),  # a bound: no mask of ours
    }
    bench.reset()
    try:
        flex, more = _flex(bench, row, compiled)
        found |= more
        found["flex_first_call_s"] = bench.seconds(lambda: _with_gradients(bench, flex, inputs))
        found["flex_ms"] = _milliseconds(bench, flex, inputs)
        found["flex_peak_gb"] = bench.memory()
        found["ratio"] = found["sdpa_ms"] / found["flex_ms"]
        outputs = [_with_gradients(bench, way, inputs) for way in (flex, sdpa)]
        found["differences"] = _differences(*outputs)
    except Exception as error:  # what was found before counts all the same
        found["flex_error"] = _why(error)
    return found


def _flex(bench: Bench, row: Row, compiled: list[Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """FlexAttention over the tree of a row, compiled where there is a GPU."""
    from torch.nn.attention.flex_attention import flex_attention

    begin = time.perf_counter()
    mask = block_mask([row], len(row), device=bench.device)
    bench.sync()
    milliseconds = 1000 * (time.perf_counter() - begin)
    if not compiled:
        compiled.append(torch.compile(flex_attention, dynamic=False) if bench.cuda else flex_attention)

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return compiled[0](q, k, v, block_mask=mask, enable_gqa=True)

    return run, {"block_mask_ms": milliseconds, "blocks_left_out_percent": float(mask.sparsity())}


def _with_gradients(
    bench: Bench, work: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Output and gradients; on a CPU the output alone, because FlexAttention has no backward there."""
    if not bench.cuda:
        with torch.no_grad():
            return [work(*(x.detach() for x in inputs))]
    out = work(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, torch.ones_like(out))]


def _differences(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> list[float]:
    """Largest differences of output and gradients, relative to the largest value."""
    return [
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in zip(ours, theirs, strict=True)
    ]


def _milliseconds(bench: Bench, work: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> float:
    """Milliseconds of a forward and backward pass."""
    rounds = 1 if bench.smoke else 10

    def both() -> None:
        for _ in range(rounds):
            _with_gradients(bench, work, inputs)

    both()
    return 1000 * bench.seconds(both) / rounds


# --- all together ---------------------------------------------------------------------------------

# name -> work, share of the time; a part that needs less leaves the rest to those after it
PARTS: Mapping[str, tuple[Callable[[Bench], None], float]] = {
    "equal": (equality, 30),
    "describe": (describing, 125),
    "score": (scoring, 60),
    "train": (training, 185),
    "masks": (masks, 75),
}


def about_device(bench: Bench) -> None:
    """The first lines: what runs here, and what a large bf16 product reaches."""
    name = torch.cuda.get_device_name() if bench.cuda else platform.machine()
    bench.peak_flops = next((flops for part, flops in PEAKS.items() if part in name), None)
    forward = t.Qwen2_5_VLForConditionalGeneration.forward
    bench.print(
        "device",
        device=name,
        memory_gb=torch.cuda.get_device_properties(0).total_memory / GB if bench.cuda else None,
        cuda=torch.version.cuda if bench.cuda else None,
        torch=torch.__version__,
        transformers=t.__version__,
        python=platform.python_version(),
        date=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        peak_bf16_flops=bench.peak_flops,
        # without it the package decodes with generate() and cannot train on packed rows: transformers >= 5.20
        forward_takes_image_features="mm_encoder_outputs" in inspect.signature(forward).parameters,
    )
    bench.attempt("matmul", lambda: matmul(bench), 5)


def matmul(bench: Bench) -> dict[str, Any]:
    """FLOP/s of a square bf16 product."""
    n, rounds = (256, 1) if bench.smoke else (8192, 20)
    a, b = (torch.randn(n, n, device=bench.device, dtype=torch.bfloat16) for _ in range(2))

    def work() -> None:
        for _ in range(rounds):
            torch.mm(a, b)

    work()
    reached = 2 * n**3 * rounds / bench.seconds(work)
    bench.matmul = reached
    return {
        "side": n,
        "tflops": reached / 1e12,
        "share_of_peak": reached / bench.peak_flops if bench.peak_flops else None,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures of the parts that are asked for."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}, in order")
    parser.add_argument("--minutes", type=float, default=8.0, help="limit of the whole run")
    parser.add_argument("--cpu-smoke", action="store_true", help="tiny models on the CPU")
    args = parser.parse_args(arguments)
    chosen = [name for name in args.parts.split(",") if name]
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"--parts: found {unknown[0]!r}, expected some of {', '.join(PARTS)}")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one device; Trainer would take all
    if not args.cpu_smoke and not torch.cuda.is_available():
        parser.error("found no GPU, expected one; --cpu-smoke runs tiny models without")
    warnings.simplefilter("ignore")  # of libraries about each other
    t.utils.logging.set_verbosity_error()
    t.utils.logging.disable_progress_bar()
    bench = Bench(60 * args.minutes, args.cpu_smoke, begin)
    about_device(bench)
    for i, name in enumerate(chosen):
        work, share = PARTS[name]
        now = time.monotonic()
        bench.part_end = now + (bench.end - now) * share / sum(PARTS[n][1] for n in chosen[i:])
        try:
            work(bench)
        except Exception as error:
            bench.print(name, error=_why(error))
    bench.print("end", seconds=time.monotonic() - begin)


if __name__ == "__main__":
    main()
