"""Stage `describe` (method 2.2): each region is described K times by the user's model, under several prompts.

In: regions. Out: descriptions, K = templates x samples per region, in a fixed order. An answer that failed,
that is empty, or that breaks off at the token limit is dropped with its reason, and keeps its number; one
that may come when it is asked for again is neither.
The paper's count of candidates and its sampling are unknown; the defaults are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from spr.dialects import Dialect
from spr.errors import ConfigError
from spr.ports import Describer
from spr.ranges import Amount, Count, Range, check_ranges
from spr.stages.prompts import TEMPLATES, Template, question, template_named
from spr.types import Answer, Description, Dropped, Findings, Frame, Query, Region, Sampling, ShardResult

MOSTLY = 0.5  # ours: from this share of equal samples on, a person is told


@dataclass(frozen=True, slots=True)
class DescribeConfig:
    """How regions are described. K = len(templates) * samples (ours: 4 x 2)."""

    # ours: the four combinations that the paper names
    templates: tuple[str, ...] = ("plain", "objects", "crop", "crop_objects")
    samples: Count = 2
    temperature: Amount = 1.0  # ours; 0: the likeliest answer, always the same
    top_p: Annotated[float, Range(above=0, most=1)] = 0.95  # ours
    max_new_tokens: Count = 512  # ours

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "describe")
        if not self.templates:
            raise ConfigError("describe.templates: found none, expected at least one, e.g. [plain]")


def queries_of(
    region: Region, config: DescribeConfig, dialect: Dialect, templates: Mapping[str, Template] = TEMPLATES
) -> list[Query]:
    """One query per template. Its id, which seeds the sampling, names region and template only.

    Raises ValueError for an image that the model of this dialect cannot be shown.
    """
    return [
        Query(
            item_id=f"{region.region_id}/{name}",
            image=region.image,
            width=region.width,
            height=region.height,
            prompt=question(name, region, dialect, templates),
            crop=region.box if template_named(name, templates).crop else None,
            group=region.region_id,
        )
        for name in config.templates
    ]


def _take(
    found: ShardResult[Description],
    region: Region,
    template: str,
    prompt: str,
    index: int,
    answer: Answer,
    limit: int,
) -> None:
    """Put an answer where it belongs. `limit`: tokens that it might have."""
    candidate_id = f"{region.region_id}/{index}"
    if answer.failed is not None:
        (found.again if answer.again else found.dropped).append(Dropped.of(candidate_id, answer.failed))
    elif not answer.stopped:
        cause = answer.cause or f"no end within {limit} tokens"
        found.dropped.append(Dropped(candidate_id, "answer_cut", f"{cause}: …{answer.text[-40:]}"))
    elif not answer.text.strip():
        found.dropped.append(Dropped(candidate_id, "empty_answer"))
    else:
        found.rows.append(Description(candidate_id, region.region_id, index, template, prompt, answer.text))


def describe(
    regions: Sequence[Region],
    describer: Describer,
    dialect: Dialect,
    config: DescribeConfig,
    seed: int,
    templates: Mapping[str, Template] = TEMPLATES,
) -> ShardResult[Description]:
    """All descriptions of some regions, in order of region, template, sample."""
    sampling = Sampling(config.samples, config.temperature, config.top_p, config.max_new_tokens, seed)
    found: ShardResult[Description] = ShardResult([])
    asked: list[tuple[Region, list[Query]]] = []
    for region in regions:
        try:
            asked.append((region, queries_of(region, config, dialect, templates)))
        except ValueError as e:
            found.dropped.append(Dropped(region.region_id, "question", str(e)))
    answers = iter(describer.answer([q for _, queries in asked for q in queries], sampling))
    for region, queries in asked:
        index = 0
        for name, query in zip(config.templates, queries, strict=True):
            for answer in next(answers):
                _take(found, region, name, query.prompt, index, answer, config.max_new_tokens)
                index += 1
    return found


def look_at_answers(rows: Iterable[Description], dialect: Dialect, config: DescribeConfig) -> Findings:
    """Whether samples of one prompt differ, and whether answers still have the tags around their boxes; with
    the usual cause and its fix.

    Equal samples leave nothing to prefer: a server may ignore the temperature without a word. Stripped tags
    cost the phrases.
    """
    samples: dict[tuple[str, str], list[str]] = {}
    stripped = 0
    for row in rows:
        samples.setdefault((row.region_id, row.template), []).append(row.text)
        stripped += any(
            p.kind == "tags_stripped" for p in dialect.parse(row.text, Frame(1000, 1000)).problems
        )
    several = [len(set(texts)) == 1 for texts in samples.values() if len(texts) > 1]
    total = sum(len(texts) for texts in samples.values())
    figures, warnings = {}, []
    if several and config.temperature > 0:
        figures["equal_samples"] = sum(several) / len(several)
        if figures["equal_samples"] > MOSTLY:
            warnings.append(
                f"all samples are equal for {figures['equal_samples']:.0%} of the prompts, at temperature "
                f"{config.temperature:g}: "
                "raise describe.temperature; a server may ignore it (model.server says which one it is)"
            )
    if stripped:
        figures["stripped_tags"] = stripped / total
        warnings.append(
            f"{stripped} of {total} answers have lost the tags around their boxes, so that phrases are "
            "guessed: "
            "serve with vLLM or SGLang (model.server), which can keep special tokens"
        )
    return Findings(figures, tuple(warnings))
