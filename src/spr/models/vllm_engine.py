"""A Describer on vLLM's offline engine, in this process: its batching and prefix cache, without a server.

In: queries. Out: answers, in order. The prompt is written by the checkpoint's own chat template, and the
answer is read from the tokens, so that tags are kept. vLLM batches all queries of a call.
Untested on the real engine: vLLM needs an accelerator, which the project's tests have not. They run against a
fake of its documented interface (LLM, SamplingParams, LoRARequest).
Known gap: a prompt that is longer than the engine's context ends the run with vLLM's own words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from spr.errors import ConfigError, DataError, missing_extra, why_no_picture
from spr.models.chat import prompt_text, text_of
from spr.models.families import model_type_of
from spr.models.loading import load_processor
from spr.models.openai_endpoint import seed_of
from spr.models.pictures import LoadImage, pictures_of
from spr.types import Answer, Checkpoint, Query, Sampling

THREADS = 4  # ours: that load images
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM's max_lora_rank may be
OWN = ("model", "revision", "dtype", "trust_remote_code", "enable_lora")


def check_engine(engine: Mapping[str, Any]) -> None:
    """Raise ConfigError for an argument of vLLM's engine that other options say."""
    for name in engine:
        if name in OWN:
            raise ConfigError(
                f"model.engine: found {name!r}, expected arguments of vllm.LLM that no other option says"
            )


class VLLMDescriber:
    """A checkpoint in vLLM's engine, with a PEFT `adapter` on top. `engine`: further arguments of vllm.LLM
    (tensor_parallel_size, gpu_memory_utilization, max_model_len). Raises ConfigError, MissingExtraError.
    """

    def __init__(
        self,
        model: str | Checkpoint,
        load_image: LoadImage,
        adapter: str | None = None,
        engine: Mapping[str, Any] | None = None,
        check: Callable[[Any], None] | None = None,
    ) -> None:
        check_engine(engine or {})
        try:
            from vllm import LLM, SamplingParams
            from vllm.lora.request import LoRARequest
        except ImportError:
            raise missing_extra("model.kind: vllm", "vllm") from None
        checkpoint = Checkpoint.of(model)
        self.processor = load_processor(checkpoint)
        if check is not None:
            check(self.processor)
        self.model_type = model_type_of(checkpoint.folder, checkpoint.revision)
        self.load_image, self._template = load_image, checkpoint.chat_template_kwargs
        self._params: Any = SamplingParams
        arguments: dict[str, Any] = {
            "model": checkpoint.folder,
            "revision": checkpoint.revision,
            "dtype": checkpoint.dtype,
            "trust_remote_code": checkpoint.trust_remote_code,
            "limit_mm_per_prompt": {"image": 2},  # a crop goes along as the second one
            "mm_processor_kwargs": dict(checkpoint.processor) or None,
        }
        if adapter:
            arguments |= {"enable_lora": True, "max_lora_rank": _room_for(adapter)}
        self._llm: Any = LLM(**{**arguments, **(engine or {})})
        self._adapter = LoRARequest("adapter", 1, adapter) if adapter else None
        tokenizer = self.processor.tokenizer
        ends = (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.bos_token_id)
        self._hidden = {token for token in ends if token is not None}

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """`sampling.n` answers per query, in order. A query without readable image gives failed answers."""
        with ThreadPoolExecutor(THREADS) as pool:
            prompts = list(pool.map(self._prompt, queries))
        asked = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, str)]
        found = [[Answer("", failed=str(prompt))] * sampling.n for prompt in prompts]
        if asked:
            outputs = self._llm.generate(
                [prompts[i] for i in asked],
                [self._sampling(queries[i], sampling) for i in asked],
                lora_request=self._adapter,
                use_tqdm=False,
            )
            for i, output in zip(asked, outputs, strict=True):
                answers = [self._read(sample) for sample in output.outputs]
                found[i] = answers * (sampling.n // len(answers))
        return found

    def _prompt(self, query: Query) -> dict[str, Any] | str:
        """What the engine is given for a query, or why there is none."""
        try:
            images = pictures_of(query, self.load_image(query.image))
        except (OSError, DataError, ValueError) as e:
            return why_no_picture(e)
        text = prompt_text(self.processor, self.model_type, query.prompt, len(images), self._template)
        return {"prompt": text, "multi_modal_data": {"image": list(images)}}

    def _sampling(self, query: Query, sampling: Sampling) -> Any:
        """Everything is said: what is left out, vLLM would take from the checkpoint's generation_config."""
        greedy = sampling.temperature == 0
        return self._params(
            n=1 if greedy else sampling.n,
            temperature=sampling.temperature,
            top_p=1.0 if greedy else sampling.top_p,
            top_k=-1,
            repetition_penalty=1.0,
            seed=seed_of(sampling.seed, query.item_id, 0),
            max_tokens=sampling.max_new_tokens,
            skip_special_tokens=False,
        )

    def _read(self, sample: Any) -> Answer:
        if sample.finish_reason not in ("stop", "length"):
            return Answer("", failed=f"engine: {sample.finish_reason}")
        hidden = self._hidden | {sample.stop_reason}  # a token, where another one than eos ended it
        return Answer(text_of(self.processor, sample.token_ids, hidden), sample.finish_reason == "stop")


def _room_for(adapter: str) -> int:
    """The smallest `max_lora_rank` of vLLM that holds an adapter. Raises ConfigError."""
    try:
        config = json.loads((Path(adapter) / "adapter_config.json").read_bytes())
        rank = max(int(config["r"]), *(int(r) for r in (config.get("rank_pattern") or {}).values()), 0)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ConfigError(f"{adapter}: found no PEFT adapter ({type(e).__name__})") from None
    room = next((r for r in RANKS if r >= rank), None)
    if room is None:
        raise ConfigError(f"{adapter}: found rank {rank}, expected at most {RANKS[-1]} for model.kind: vllm")
    return room
