"""`model.kind: vllm` against a fake of vLLM's documented interface: what is asked of the engine, and how its
answers are read. The engine itself is untested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spr.errors import ConfigError, MissingExtraError
from spr.models.hf_mllm import HFDescriber
from spr.models.vllm_engine import VLLMDescriber
from spr.ports import Describer
from spr.types import Query, Sampling
from tests.contract.fake_vllm import LLM, install, random_adapter
from tests.unit.models.conftest import load_noise

GREEDY = Sampling(n=1, temperature=0, max_new_tokens=12)
NAME = "qwen2_5_vl"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    return install(monkeypatch)


def queries() -> list[Query]:
    box = (5.0, 6.0, 40.0, 50.0)
    return [
        Query("a", "1@70x56", 70, 56, "Where is the dog?"),
        Query("b", "missing", 70, 56, "Where is the dog?"),
        Query("c", "2@70x56", 70, 56, "Describe this part.", box),
    ]


def test_its_answers_are_those_of_transformers(checkpoint: Callable[[str], str], engine: type[LLM]) -> None:
    """The same prompt, the same pictures, the same reading: with tags, without the tokens that end it."""
    folder = checkpoint(NAME)
    ours = VLLMDescriber(folder, load_noise, engine={"max_model_len": 4096})
    assert isinstance(ours, Describer)
    expected = HFDescriber(folder, load_noise, device="cpu").answer(queries(), replace(GREEDY, n=2))
    assert ours.answer(queries(), replace(GREEDY, n=2)) == expected
    assert expected[1][0].failed is not None
    assert engine.seen == [{"enable_lora": False, "max_lora_rank": 16, "max_model_len": 4096}]


def test_samples_are_drawn_with_a_seed_of_each_query(
    checkpoint: Callable[[str], str], engine: type[LLM]
) -> None:
    drawn = Sampling(n=3, temperature=1.0, top_p=0.9, max_new_tokens=12, seed=4)
    ours = VLLMDescriber(checkpoint(NAME), load_noise)
    first, again = ours.answer(queries(), drawn), ours.answer(queries(), drawn)
    assert first == again
    assert first != ours.answer(queries(), replace(drawn, seed=5))
    assert all(len(answers) == 3 for answers in first)
    assert len({answer.text for answer in first[0]}) > 1


def test_an_adapter_goes_on_top(checkpoint: Callable[[str], str], engine: type[LLM], tmp_path: Path) -> None:
    folder = checkpoint(NAME)
    adapter = random_adapter(folder, tmp_path / "adapter", rank=20)
    answers = VLLMDescriber(folder, load_noise, adapter).answer(queries(), GREEDY)
    assert answers == HFDescriber(folder, load_noise, device="cpu", adapter=adapter).answer(queries(), GREEDY)
    assert answers != HFDescriber(folder, load_noise, device="cpu").answer(queries(), GREEDY)
    assert engine.seen[0]["enable_lora"]
    assert engine.seen[0]["max_lora_rank"] == 32  # the next one that vLLM knows


def test_what_cannot_be_is_one_line(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(MissingExtraError, match=r"model\.kind: vllm needs .*spr-vlm\[vllm\]"):
        VLLMDescriber(checkpoint(NAME), load_noise)
    install(monkeypatch)
    with pytest.raises(ConfigError, match=r"model\.engine: found 'dtype'"):
        VLLMDescriber(checkpoint(NAME), load_noise, engine={"dtype": "auto"})
    with pytest.raises(ConfigError, match=r"found no PEFT adapter"):
        VLLMDescriber(checkpoint(NAME), load_noise, str(tmp_path))
