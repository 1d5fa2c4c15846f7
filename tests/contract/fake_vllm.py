"""A fake of vLLM's offline engine, which cannot be installed here: the classes and fields that its
documentation names (LLM, SamplingParams, LoRARequest; outputs with token_ids, finish_reason, stop_reason),
with transformers' generate() behind them. What it does not know it refuses, as vLLM does.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from spr.models.loading import load_mllm, quiet_peft, with_adapter
from spr.types import Checkpoint


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.n > 1:
            raise ValueError("n must be 1 when using greedy sampling")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be in (0, 1]")


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass(frozen=True)
class CompletionOutput:
    token_ids: Sequence[int]
    finish_reason: str
    stop_reason: int | None


@dataclass(frozen=True)
class RequestOutput:
    outputs: list[CompletionOutput]


class LLM:
    """`seen`: what every engine was made with."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(
        self,
        *,
        model: str,
        revision: str | None,
        dtype: str,
        trust_remote_code: bool,
        limit_mm_per_prompt: dict[str, int],
        mm_processor_kwargs: dict[str, Any] | None,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        max_model_len: int | None = None,
    ) -> None:
        self.seen.append(
            {"enable_lora": enable_lora, "max_lora_rank": max_lora_rank, "max_model_len": max_model_len}
        )
        self._limit, self._lora = limit_mm_per_prompt["image"], enable_lora
        checkpoint = Checkpoint(model, revision, dtype, processor=mm_processor_kwargs or {})
        self._model, self._processor = load_mllm(checkpoint, "cpu")

    def generate(
        self,
        prompts: Sequence[dict[str, Any]],
        sampling_params: Sequence[SamplingParams],
        *,
        lora_request: LoRARequest | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """One output per prompt, in order."""
        if lora_request is not None:
            assert self._lora, "LoRA is not enabled"
            assert lora_request.lora_int_id > 0
            self._model = with_adapter(self._model, lora_request.lora_path)
        return [self._one(p, s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _one(self, prompt: dict[str, Any], params: SamplingParams) -> RequestOutput:
        images = prompt["multi_modal_data"]["image"]
        assert len(images) <= self._limit
        inputs = self._processor(text=prompt["prompt"], images=images, return_tensors="pt")
        torch.manual_seed(params.seed or 0)
        drawn = (
            {"temperature": params.temperature, "top_p": params.top_p, "top_k": 0}
            if params.temperature
            else {}
        )
        out = self._model.generate(
            **inputs,
            do_sample=bool(drawn),
            num_return_sequences=params.n,
            max_new_tokens=params.max_tokens,
            repetition_penalty=params.repetition_penalty,
            **drawn,
        )
        return RequestOutput([self._output(row.tolist()) for row in out[:, inputs["input_ids"].shape[1] :]])

    def _output(self, ids: list[int]) -> CompletionOutput:
        """The end token is among the tokens; which one it was is only said where it is not the usual one."""
        named = self._model.generation_config.eos_token_id
        ends = {*(named if isinstance(named, list) else [named]), self._processor.tokenizer.eos_token_id}
        end = next((i for i, token in enumerate(ids) if token in ends), None)
        if end is None:
            return CompletionOutput(ids, "length", None)
        usual = ids[end] == self._processor.tokenizer.eos_token_id
        return CompletionOutput(ids[: end + 1], "stop", None if usual else ids[end])


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """`import vllm` gives this from now on."""
    vllm, lora, request = (types.ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request"))
    vllm.__dict__.update(LLM=LLM, SamplingParams=SamplingParams)
    request.__dict__.update(LoRARequest=LoRARequest)
    for module in (vllm, lora, request):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    LLM.seen.clear()
    return LLM


def random_adapter(checkpoint: str, folder: Path, rank: int = 8) -> str:
    """A PEFT adapter of a checkpoint whose weights are not nothing."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_mllm(checkpoint, "cpu")
    torch.manual_seed(3)
    with quiet_peft():
        lora = LoraConfig(r=rank, lora_alpha=64 * rank, target_modules="all-linear", init_lora_weights=False)
        with_lora = get_peft_model(model, lora)
    with_lora.save_pretrained(str(folder))
    return str(folder)
