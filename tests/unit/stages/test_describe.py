"""Stage describe: K candidates in a fixed order, each failure with its reason, seeds that name region and
template only.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from spr.dialects import get_dialect
from spr.errors import ConfigError
from spr.models.scripted import ScriptedDescriber
from spr.stages.describe import DescribeConfig, describe, look_at_answers, queries_of
from spr.stages.prompts import TEMPLATES, Template, listed, question, templates_with, with_article
from spr.types import Answer, Description, Region, RegionObject

FERRET = get_dialect("ferret")
REGION = Region(
    "i#0",
    "i",
    "i.jpg",
    1000,
    1000,
    0,
    (10.0, 20.0, 300.0, 400.0),
    "0",
    (RegionObject("0", "cat", (10.0, 20.0, 30.0, 40.0)),),
)


def test_candidates_come_in_order_of_template_and_sample() -> None:
    model = ScriptedDescriber(lambda query, k: f"{query.item_id} {k}")
    found = describe([REGION], model, FERRET, DescribeConfig(templates=("plain", "list"), samples=2), seed=0)
    assert found.dropped == found.again == []
    assert [(c.index, c.template, c.text) for c in found.rows] == [
        (0, "plain", "i#0/plain 0"),
        (1, "plain", "i#0/plain 1"),
        (2, "list", "i#0/list 0"),
        (3, "list", "i#0/list 1"),
    ]


def test_every_answer_is_kept_dropped_or_asked_again_and_keeps_its_number() -> None:
    """Three outcomes, and no fourth: what may come back is neither a row nor a drop."""
    answers = [
        Answer("", failed="server gone"),
        Answer("", failed="refused: too large"),
        "  ",
        Answer("a cat [1, 2", stopped=False),
        Answer("<think>a cat", stopped=False, cause="cut while thinking"),
        "a cat",
        Answer("", failed="endpoint: timeout (6 tries)", again=True),
    ]
    found = describe(
        [REGION],
        ScriptedDescriber(lambda query, k: answers[k]),
        FERRET,
        DescribeConfig(templates=("plain",), samples=len(answers)),
        seed=0,
    )
    assert [(d.item_id, d.reason, d.detail) for d in found.dropped] == [
        ("i#0/0", "answer_failed", "server gone"),
        ("i#0/1", "refused", "too large"),
        ("i#0/2", "empty_answer", ""),
        ("i#0/3", "answer_cut", "no end within 512 tokens: …a cat [1, 2"),
        ("i#0/4", "answer_cut", "cut while thinking: …<think>a cat"),
    ]
    assert [c.candidate_id for c in found.rows] == ["i#0/5"]
    assert [(d.item_id, d.reason, d.detail) for d in found.again] == [
        ("i#0/6", "endpoint", "timeout (6 tries)")
    ]


def test_an_image_that_a_notation_cannot_show_costs_its_own_region_only() -> None:
    """900x4: Qwen2.5-VL takes no picture of such a shape. It stopped the run, again at each resume."""
    thin = replace(REGION, region_id="thin#0", width=900, height=4)
    found = describe(
        [thin, REGION],
        ScriptedDescriber(lambda query, k: "a cat"),
        get_dialect("qwen2_5_vl"),
        DescribeConfig(templates=("plain",), samples=1),
        seed=0,
    )
    assert [(d.item_id, d.reason) for d in found.dropped] == [("thin#0", "question")]
    assert [c.candidate_id for c in found.rows] == ["i#0/0"]


def test_only_the_templates_with_a_crop_send_one() -> None:
    queries = queries_of(REGION, DescribeConfig(templates=tuple(TEMPLATES)), FERRET)
    assert {q.item_id.rpartition("/")[2]: q.crop for q in queries} == {
        name: REGION.box if template.crop else None for name, template in TEMPLATES.items()
    }
    assert len({q.group for q in queries}) == 1  # one region, one batch


def test_boxes_in_a_question_are_written_in_the_notation_of_the_model() -> None:
    assert "[10, 20, 300, 400]" in question("plain", REGION, FERRET)
    assert "cat [10, 20, 30, 40]" in question("objects", REGION, FERRET)
    assert "<box>[[10, 20, 300, 400]]</box>" in question("plain", REGION, get_dialect("internvl"))


def test_an_unknown_template_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"describe\.templates: unknown template 'plian' \(did you mean 'plain'\?\)"
    ):
        question("plian", REGION, FERRET)


def test_a_configuration_words_its_own_questions() -> None:
    """The section `prompts` replaces and adds; object references come with articles, from left to right."""
    templates = templates_with({"plain": Template("See {region}. There: {names}.")})
    both = replace(REGION, objects=(*REGION.objects, RegionObject("1", "owl", (0.0, 20.0, 15.0, 40.0))))
    assert question("plain", both, FERRET, templates) == "See [10, 20, 300, 400]. There: an owl and a cat."
    assert templates["crop"] == TEMPLATES["crop"]


@pytest.mark.parametrize(
    ("text", "message"), [("{regoin}", "did you mean 'region'"), ("{region", "expected text with the fields")]
)
def test_a_mistake_in_a_template_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        templates_with({"mine": Template(text)})


def test_lists_are_written_as_people_write_them() -> None:
    assert [listed(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert [with_article(w) for w in ("dog", "owl", "ear of corn")] == ["a dog", "an owl", "an ear of corn"]


def described(*texts: str) -> list[Description]:
    """Two samples per prompt, in a row."""
    return [Description(f"r/{i}", "r", i, f"t{i // 2}", "?", text) for i, text in enumerate(texts)]


def test_equal_samples_are_reported_with_their_usual_cause() -> None:
    """A server that ignores the temperature says so in no other way."""
    dialect, config = get_dialect("ferret"), DescribeConfig(samples=2)
    found = look_at_answers(described("a", "a", "b", "b", "c", "d"), dialect, config)
    assert found.figures == {"equal_samples": pytest.approx(2 / 3)}
    assert found.warnings[0].startswith(
        "all samples are equal for 67% of the prompts, at temperature 1: raise describe.temperature; a "
        "server may"
    )
    assert look_at_answers(described("a", "a", "b", "c"), dialect, config).warnings == ()
    # asked for
    assert look_at_answers(described("a", "a"), dialect, replace(config, temperature=0.0)).figures == {}
    assert look_at_answers([], dialect, config).figures == {}


def test_stripped_tags_are_reported_with_the_fix() -> None:
    whole, bare = "<ref>a</ref><box>[[1, 2, 3, 4]]</box>", "a[[1, 2, 3, 4]]"
    found = look_at_answers(described(whole, bare, "c", "d"), get_dialect("internvl"), DescribeConfig())
    assert found.figures["stripped_tags"] == 0.25
    assert found.warnings == (
        "1 of 4 answers have lost the tags around their boxes, so that phrases are guessed: "
        "serve with vLLM or SGLang (model.server), which can keep special tokens",
    )
