"""The doctor must name the right contract, and the planted wrong one in every sabotaged configuration."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typing_extensions import override

from spr.commands.doctor import doctor_config, preview_prompts
from spr.data.config import DataConfig
from spr.dialects import Dialect, get_dialect, known_names
from spr.doctor.examine import (
    Picture,
    Trial,
    ask,
    box_findings,
    choose_items,
    engine_finding,
    examine_boxes,
    processor_findings,
    prompts_finding,
    reading_finding,
    reply,
    time_finding,
    wording,
)
from spr.doctor.readings import Item
from spr.doctor.verdict import Finding
from spr.errors import ConfigError
from spr.evaluation.config import BenchmarkConfig, EvaluationConfig
from spr.models.families import dialect_for_checkpoint
from spr.models.scripted import ScriptedDescriber
from spr.ports import Describer
from spr.run.wiring import Config, ModelConfig, build_describer, image_store, load_config
from spr.scenes.embedded import checkpoint_folder
from spr.scenes.files import write_split
from spr.scenes.language import PROMPTS, WHERE
from spr.stages.describe import DescribeConfig
from spr.stages.prompts import Template
from spr.stages.regions import RegionsConfig
from spr.store.progress import Progress
from spr.types import Annotation, Answer, Box, Frame, ImageRecord, Query, Sampling
from tests.contract.checkpoints import build
from tests.support.pages import refused
from tests.unit.models.conftest import noise

SIZES = [(200, 120), (120, 220), (160, 160), (240, 100)]
NAMES = ["dog", "cat", "traffic_light"]
WORDINGS = [wording(get_dialect(n), "rec") for n in known_names()]
QUIET = Progress()
Writer = Callable[[str, Box, Frame], str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images of several shapes with three objects each, as COCO; and a tiny Qwen2.5-VL for its
    processor.
    """
    root = tmp_path_factory.mktemp("doctor")
    (root / "images").mkdir()
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for i in range(20):
        w, h = SIZES[i % len(SIZES)]
        noise(i, (w, h)).save(root / "images" / f"{i:02}.png")
        images.append({"id": i, "file_name": f"{i:02}.png", "width": w, "height": h})
        for k in range(3):
            bw, bh = rng.uniform(0.2, 0.5) * w, rng.uniform(0.2, 0.5) * h
            x, y = rng.uniform(0, w - bw), rng.uniform(0, h - bh)
            box = [round(v, 1) for v in (x, y, bw, bh)]
            annotations.append(
                {"id": 3 * i + k, "image_id": i, "category_id": k, "bbox": box, "area": bw * bh, "iscrowd": 0}
            )
    coco = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": n} for k, n in enumerate(NAMES)],
    }
    (root / "instances.json").write_text(json.dumps(coco))
    build("qwen2_5_vl", root)
    return root


def config(world: Path, run: Path, dialect: str | None, **options: int) -> Config:
    return Config(
        run=str(run),
        data=DataConfig(
            "coco", str(world / "instances.json"), str(world / "images"), cache=str(world / "cache")
        ),
        model=ModelConfig(str(world / "qwen2_5_vl"), dialect=dialect, dialect_options=options),
        regions=RegionsConfig(min_objects=2),
        describe=DescribeConfig(max_new_tokens=64),
    )


def truths(world: Path) -> dict[tuple[str, str], Box]:
    coco = json.loads((world / "instances.json").read_text())
    found: dict[tuple[str, str], Box] = {}
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        found[f"{a['image_id']:02}.png", NAMES[a["category_id"]].replace("_", " ")] = (x, y, x + w, y + h)
    return found


def model_that_writes(
    world: Path, write: Writer, understands: Callable[[str], bool] = lambda prompt: True
) -> ScriptedDescriber:
    """Knows where everything is, a pixel off to one side or the other, and says so in its own way."""
    known = truths(world)

    def answer(query: Query, sample: int) -> str:
        here = {name: box for (image, name), box in known.items() if image == query.image}
        asked = [name for name in here if f"the {name}" in query.prompt]
        if "/what/" in query.item_id:
            return " and ".join(here)
        if "/where/" not in query.item_id:  # a prompt of the run's own
            return ", ".join(write(name, box, Frame(query.width, query.height)) for name, box in here.items())
        if not asked or not understands(query.prompt):
            return "I do not know."
        x1, y1, x2, y2 = here[asked[0]]
        off = 1 if (int(query.image[:2]) + NAMES.index(asked[0].replace(" ", "_"))) % 2 else -1
        return write(asked[0], (x1 + off, y1 - off, x2 + off, y2), Frame(query.width, query.height))

    return ScriptedDescriber(answer)


def in_dialect(dialect: Dialect) -> Writer:
    return lambda phrase, box, frame: dialect.compose(
        [(None if dialect.name == "glm4v" else phrase, [box])], frame
    )


def swapped(phrase: str, box: Box, frame: Frame) -> str:
    """GLM's markers, but rows before columns."""
    x1, y1, x2, y2 = (
        round(v * 1000 / side) for v, side in zip(box, (frame.width, frame.height) * 2, strict=True)
    )
    return f"<|begin_of_box|>[[{y1}, {x1}, {y2}, {x2}]]<|end_of_box|>"


@pytest.fixture(scope="module")
def items(world: Path) -> list[Item]:
    """What the doctor asks for in that world."""
    coco = json.loads((world / "instances.json").read_text())
    records = [ImageRecord(i["file_name"], i["file_name"], i["width"], i["height"]) for i in coco["images"]]
    boxes = {
        r.image_id: [
            Annotation(n, r.image_id, n, b) for (image, n), b in truths(world).items() if image == r.image_id
        ]
        for r in records
    }
    return choose_items(records, boxes, seed=0)


def examine(
    world: Path, items: list[Item], dialect: str, write: Writer, **options: int
) -> dict[str, Finding]:
    assumed = get_dialect(dialect, **options)  # type: ignore[arg-type]
    describer = model_that_writes(world, write)
    sizes = right_options(world)
    exam = examine_boxes(describer, items, assumed, sizes, wording(assumed, "rec"), WORDINGS, QUIET)
    return {
        f.check: f
        for f in [
            *box_findings(exam, assumed, sizes),
            reading_finding(describer, items, assumed, wording(assumed, "region_caption"), QUIET),
        ]
    }


def right_options(world: Path) -> dict[str, int]:
    """min_pixels and max_pixels of the processor."""
    return dialect_for_checkpoint(str(world / "qwen2_5_vl"))[1]


def doctor(
    world: Path, tmp_path: Path, dialect: str | None, describer: ScriptedDescriber, **options: int
) -> dict[str, Finding]:
    """The whole command."""
    findings = doctor_config(
        config(world, tmp_path / "run", dialect, **options), Progress(), describer, Console(quiet=True)
    )
    return {f.check: f for f in findings}


@pytest.mark.parametrize(
    "name",
    [
        "qwen2_5_vl",
        "qwen3_vl",
        "ferret",
        "internvl",
        "asmv2",
        "shikra",
        "glm4v",
        "florence2",
        "paligemma",
        "kosmos2",
    ],
)
def test_the_right_contract_is_fine(world: Path, items: list[Item], name: str) -> None:
    options = right_options(world) if name == "qwen2_5_vl" else {}
    found = examine(world, items, name, in_dialect(get_dialect(name, **options)), **options)
    assert found["contract"].verdict == "fine", found["contract"]
    assert re.search(r": median IoU 0\.9\d, .* other readings fits better$", found["contract"].found)
    assert found["parse rate"].verdict == "fine"
    assert found["parse rate"].found.startswith("100% of 60 answers")
    assert "20 of 20 answers" in found["boxes in prompts"].found


@pytest.mark.parametrize(
    ("assumed", "written", "looks", "advice"),
    [
        # assumed by the configuration, written by the model, what the boxes look like, what to do
        # resized pixels taken for 0-1000
        ("qwen3_vl", "qwen2_5_vl", "pixels of the resized image", "set dialect: qwen2_5_vl"),
        (
            "qwen2_5_vl",
            "qwen3_vl",
            "0-1000 of the original image",
            "set dialect: qwen3_vl",
        ),  # the other way round
        ("llava", "ferret", "0-1000 of the original image", "set dialect: ferret"),  # wrong divisor
        # the same bytes, on a padded square
        ("internvl", "asmv2", "padded to a square", "set dialect: asmv2"),
        # no dialect has this contract
        ("glm4v", "swapped", "axes swapped (y x y x)", "set dialect: {base: glm4v, order: yxyx}"),
        # right numbers, wrong markup
        ("internvl", "ferret", "written as ferret writes them", "set dialect: ferret"),
    ],
)
def test_a_sabotaged_configuration_is_named(
    world: Path, items: list[Item], assumed: str, written: str, looks: str, advice: str
) -> None:
    options = right_options(world)
    write = (
        swapped
        if written == "swapped"
        else in_dialect(get_dialect(written, **(options if written == "qwen2_5_vl" else {})))
    )
    finding = examine(world, items, assumed, write, **(options if assumed == "qwen2_5_vl" else {}))[
        "contract"
    ]
    assert finding.verdict == "wrong"
    assert looks in finding.found
    assert finding.found.endswith(advice)


def test_limits_that_are_not_the_processors_are_named(world: Path, tmp_path: Path) -> None:
    """The same text means other pixels under another max_pixels: seen without asking the model, and in its
    answers.
    """
    qwen = get_dialect("qwen2_5_vl", **right_options(world))  # type: ignore[arg-type]
    describer = model_that_writes(world, in_dialect(qwen))
    found = doctor(world, tmp_path, "qwen2_5_vl", describer, min_pixels=784, max_pixels=100 * 784)
    assert found["resized frame"].verdict == "wrong"
    assert "the dialect expects" in found["resized frame"].found
    assert found["contract"].verdict == "wrong"
    assert "pixels of the resized image" in found["contract"].found


def test_the_whole_command_on_a_right_configuration(world: Path, tmp_path: Path) -> None:
    """The dialect and its options come from the checkpoint; the page shows eight objects with truth and
    answer.
    """
    qwen = get_dialect("qwen2_5_vl", **right_options(world))  # type: ignore[arg-type]
    describer = model_that_writes(world, in_dialect(qwen))
    found = doctor(world, tmp_path, None, describer)
    assert {f.verdict for f in found.values()} == {"fine"}
    assert set(found) == {
        "dialect",
        "image size",
        "resized frame",
        "image tokens",
        "context",
        "parse rate",
        "contract",
        "boxes in prompts",
        "descriptions",
        "time",
    }
    page = (tmp_path / "run" / "doctor.html").read_text()
    assert refused(page) == []
    assert page.count('class="o truth"') == page.count('class="o m0"') == 8
    assert "data:image/jpeg;base64," in page


def test_a_model_that_needs_other_words_is_asked_in_them(world: Path, items: list[Item]) -> None:
    shikra, write = get_dialect("shikra"), in_dialect(get_dialect("ferret"))
    describer = model_that_writes(world, write, lambda prompt: prompt.startswith("What is the location of"))
    exam = examine_boxes(describer, items, shikra, {}, wording(shikra, "rec"), WORDINGS, QUIET)
    found = {f.check: f for f in box_findings(exam, shikra, {})}
    assert found["wording"].verdict == "look"
    assert "asked 'What is the location of {expression} in the image?' instead" in found["wording"].found
    assert found["contract"].found.endswith("set dialect: ferret")


def test_a_model_that_cannot_locate_gets_no_verdict(world: Path, items: list[Item]) -> None:
    found = examine(world, items, "ferret", lambda phrase, box, frame: f"the {phrase} [1, 1, 9, 9]")
    assert found["contract"].verdict == "look"
    assert "nothing can be said about the frame" in found["contract"].found


def test_unreadable_answers_lower_the_parse_rate_and_say_why(world: Path, items: list[Item]) -> None:
    found = examine(world, items, "ferret", lambda phrase, box, frame: "the dog [100, 200, 300")
    assert found["parse rate"].verdict == "look"
    assert found["parse rate"].found == "0% of 60 answers have a readable box (truncated: 60)"


def test_a_second_engine_that_resizes_again_is_noticed(world: Path, items: list[Item]) -> None:
    ferret = get_dialect("ferret")
    write = in_dialect(ferret)
    first, same = model_that_writes(world, write), model_that_writes(world, write)
    halved = model_that_writes(world, lambda p, b, f: write(p, (b[0] / 2, b[1] / 2, b[2] / 2, b[3] / 2), f))
    exam = examine_boxes(first, items, ferret, {}, wording(ferret, "rec"), [], QUIET)
    assert engine_finding(exam, same, ferret, QUIET) == Finding(
        "second engine", "60 of 60 answers are equal; boxes: median IoU 1.00, at most 0 px apart", "fine"
    )
    assert engine_finding(exam, halved, ferret, QUIET).verdict == "wrong"


class Rewriting:
    """The embedded model, asked once per question; its answers with other numbers in the place of its own."""

    def __init__(self, inner: Describer) -> None:
        self.inner, self.known, self.write = inner, dict[tuple[str, str], list[Answer]](), same_numbers

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        new = [q for q in queries if (q.image, q.prompt) not in self.known]
        self.known.update(
            zip([(q.image, q.prompt) for q in new], self.inner.answer(new, sampling), strict=True)
        )
        return [
            [replace(a, text=self._rewritten(a.text, q)) for a in self.known[q.image, q.prompt]]
            for q in queries
        ]

    def _rewritten(self, text: str, query: Query) -> str:
        boxes = [
            box
            for m in get_dialect("florence2").parse(text, Frame(query.width, query.height)).mentions
            for box in m.boxes
        ]
        return (
            "".join(f"<loc_{round(v)}>" for box in boxes for v in self.write(box, query.width, query.height))
            if boxes
            else text
        )


Rewrite = Callable[[Box, int, int], Sequence[float]]


def same_numbers(box: Box, w: int, h: int) -> Sequence[float]:
    return [v * 1000 / side - 0.5 for v, side in zip(box, (w, h, w, h), strict=True)]


def on_a_square(box: Box, w: int, h: int) -> Sequence[float]:
    side = max(w, h)
    return [
        (v + pad) * 1000 / side for v, pad in zip(box, ((side - w) // 2, (side - h) // 2) * 2, strict=True)
    ]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Rewriting]:
    """The trained checkpoint on 20 images of its world, asked in the words of the run's own benchmark."""
    root = tmp_path_factory.mktemp("embedded")
    files = write_split(root, "pair", 20)
    data = DataConfig(
        "coco",
        str(root / "pair" / "instances.json"),
        str(root / "pair" / "images"),
        cache=str(root / "cache"),
    )
    asked = BenchmarkConfig(
        "own", "rec", "mdetr", str(files.expressions), images=str(files.images), split="pair", prompt=WHERE
    )
    prompts = {name: PROMPTS[name] for name in ("plain", "crop_objects")}
    own = EvaluationConfig((asked,))
    described = Config(
        run=str(root / "run"),
        data=data,
        model=ModelConfig(str(checkpoint_folder("mllm")), dialect="florence2"),
        prompts=prompts,
        describe=DescribeConfig(tuple(prompts), max_new_tokens=96),
        evaluate=own,
    )
    return described, Rewriting(build_describer(described, image_store(described)))


@pytest.mark.parametrize(
    ("assumed", "write", "verdict", "says"),
    [
        ("florence2", same_numbers, "fine", "fits better"),
        # the right thousandths in another markup
        ("ferret", same_numbers, "wrong", "set dialect: florence2"),
        ("qwen2_5_vl", same_numbers, "wrong", "set dialect: florence2"),
        ("florence2", lambda b, w, h: [v * 100 / side for v, side in zip(b, (w, h, w, h), strict=True)],
            "wrong", "set dialect: {base: florence2, scale: 100}"),
        ("florence2", lambda b, w, h: [same_numbers(b, w, h)[k] for k in (1, 0, 3, 2)], "wrong",
            "set dialect: {base: florence2, order: yxyx}"),
        ("florence2", lambda b, w, h: [v * 112 / side for v, side in zip(b, (w, h, w, h), strict=True)],
            "wrong", "set dialect: {base: florence2, scale: 112}"),
        ("florence2", on_a_square, "wrong", "set dialect: {base: florence2, frame: padded}"),
    ],
    ids=["right", "another markup", "JSON assumed", "another divisor", "swapped axes", "resized pixels",
    "a padded square"],
)  # fmt: skip
def test_the_embedded_model_is_diagnosed(
    embedded: tuple[Config, Rewriting], assumed: str, write: Rewrite, verdict: str, says: str
) -> None:
    """The whole command on a real, trained checkpoint, with its answers as they are or with a planted
    fault.
    """
    described, describer = embedded
    describer.write = write
    asked = replace(
        described, model=replace(described.model, dialect=assumed), run=f"{described.run}-{assumed}"
    )
    finding = {f.check: f for f in doctor_config(asked, Progress(), describer, Console(quiet=True))}[
        "contract"
    ]
    assert finding.verdict == verdict, finding
    assert says in finding.found


def test_a_processor_that_crops_the_centre_is_named_with_the_fix(embedded: tuple[Config, Rewriting]) -> None:
    """And a run stops for it before the model is loaded."""
    described, _ = embedded
    cropping = {
        "do_center_crop": True,
        "size": {"shortest_edge": 112},
        "crop_size": {"height": 112, "width": 112},
    }
    asked = replace(
        described, model=replace(described.model, processor=cropping), run=f"{described.run}-crop"
    )
    found = {f.check: f for f in doctor_config(asked, Progress(), console=Console(quiet=True))}
    fix = "set model.processor: {do_center_crop: false, size: {height: 112, width: 112}}"
    assert found["crop"].verdict == "wrong"
    assert found["crop"].found.endswith(fix)
    assert "up to 25% of an image is cut off" in found["image size"].found
    with pytest.raises(ConfigError, match=re.escape(fix)):
        build_describer(asked, image_store(asked))


def test_every_category_is_asked_for_with_all_its_boxes() -> None:
    """Where a crowd stands among them, nobody knows all: it is not asked for. Of more images than twenty, as
    many as make two hundred questions.
    """
    image = ImageRecord("a", "a.png", 100, 100)
    boxes: dict[str, list[Box]] = {
        "dog": [(0, 0, 50, 50), (50, 50, 99, 99)],
        "bird": [(1.0, 1.0, 3.0, 3.0)],
        "crowd": [(0, 0, 100, 100)],
    }
    rows = [
        Annotation(f"{n}{k}", "a", n, b, crowd=n == "crowd")
        for n, bs in boxes.items()
        for k, b in enumerate(bs)
    ]
    asked = {i.category: i.truths for i in choose_items([image], {"a": rows}, seed=0)}
    assert asked == {"dog": ((0, 0, 50, 50), (50, 50, 99, 99)), "bird": ((1.0, 1.0, 3.0, 3.0),)}
    many = [ImageRecord(str(k), f"{k}.png", 100, 100) for k in range(300)]
    single = {i.image_id: [Annotation(i.image_id, i.image_id, "dog", (0, 0, 9, 9))] for i in many}
    assert len(choose_items(many, single, seed=0)) == 200
    crowded = {
        i.image_id: [Annotation(f"{k}", "", f"dog {k}", (0, 0, 9, 9)) for k in range(30)] for i in many
    }
    assert len(choose_items(many, crowded, seed=0)) == 20 * 30


def test_what_a_processor_cuts_off_or_cannot_fit_is_said() -> None:
    item = Item("a", Frame(200, 100), "dog", ((0, 0, 9, 9),))
    found = {
        f.check: f
        for f in processor_findings(
            [item], [Picture((56, 56), 16, 0.5)], get_dialect("ferret"), 500, 100, 512
        )
    }
    assert found["image size"].found == "200x100 -> 56x56; up to 50% of an image is cut off"
    assert found["image size"].verdict == "look"
    assert found["context"].found.startswith(
        "longest prompt 500 + answer 100 = 600 of 512 tokens: answers will be cut"
    )
    assert found["context"].verdict == "wrong"


def test_the_preview_shows_what_the_model_receives(world: Path, tmp_path: Path) -> None:
    """After the chat template, with counts: a 160x160 picture is 112x112 after resizing = 8 x 8 patches, four
    to a token.
    """
    page = preview_prompts(config(world, tmp_path / "run", "qwen3_vl"))
    assert refused(page) == []
    assert (
        "&lt;|im_start|&gt;user\n&lt;|vision_start|&gt;&lt;|image_pad|&gt;&lt;|vision_end|&gt;Describe the "
        "objects in the region" in page
    )
    assert "tokens, 16 of them for 1 image(s)" in page


def test_the_preview_shows_the_prompts_of_the_run(world: Path, tmp_path: Path) -> None:
    """It showed the built-in wording of a template that the configuration replaces."""
    own = replace(
        config(world, tmp_path / "run", "qwen3_vl"),
        prompts={"plain": Template("Say what {region} shows."), "mine": Template("And {region}?")},
        describe=DescribeConfig(("plain", "mine")),
    )
    page = preview_prompts(own)
    assert page.count("Say what {") == page.count("And {") == 3
    assert "Describe the objects" not in page


# --- the run's own prompts -------------------------------------------------------------------------

QWEN = get_dialect("qwen3_vl")
BOXES = '[{"bbox_2d": [1, 2, 300, 400], "label": "cat"}, {"bbox_2d": [5, 6, 700, 800], "label": "dog"}]'
BARE = '[{"bbox_2d": [1, 2, 300, 400]}]'


def trial(*answers: Answer, needed: bool = True) -> Trial:
    replies = [reply(f"t{k % 2}", answer, Frame(100, 100), QWEN) for k, answer in enumerate(answers)]
    return Trial("descriptions", replies, 64, 10.0, 7200, needed)


def test_what_a_run_can_expect_of_its_prompts() -> None:
    """Readable answers, boxes, names, the token limit, the time of an answer and of all."""
    found = prompts_finding(trial(*[Answer(BOXES)] * 10))
    assert found.verdict == "fine"
    assert found.found == (
        "10 of 10 answers are readable; 2.0 boxes in each, 100% of them named; none cut at 64 tokens; "
        "1.0 s an answer, 2:00:00 for all 7,200"
    )
    assert time_finding([trial(Answer(BOXES)), trial(Answer(BOXES))]).found.startswith("40:00:00 for all")


@pytest.mark.parametrize(
    ("answers", "verdict", "says"),
    [
        ([Answer(BOXES)] * 9 + [Answer(BOXES, stopped=False)], "look", "1 cut at 64 tokens"),
        ([Answer(BARE)] * 10, "look", "0% of them named"),
        ([Answer(BOXES), Answer("A cat.")] * 5, "look", "seldom: t1"),
        ([Answer("", failed="refused: no")] * 2 + [Answer(BOXES)] * 8, "look", "failed: refused: 2"),
        ([Answer("A cat.")] * 7, "look", "0 of 7 answers are readable"),
        ([Answer("A cat.")] * 8, "wrong", "nothing can be made of such answers"),
    ],
)
def test_what_a_person_should_know_of_them(answers: list[Answer], verdict: str, says: str) -> None:
    """Without a single box there is no pair: that is wrong, once there are enough answers to say so."""
    found = prompts_finding(trial(*answers))
    assert found.verdict == verdict
    assert says in found.found


def test_a_benchmark_without_boxes_needs_none() -> None:
    yes = [replace(r, read=True) for r in trial(*[Answer("Yes")] * 10).replies]
    assert prompts_finding(replace(trial(needed=False), replies=yes)).verdict == "fine"


def test_progress_moves_and_images_are_asked_whole(world: Path, items: list[Item]) -> None:
    """Questions about one image stay together, since they share its tokens."""
    asked: list[list[str]] = []

    class Counting(Progress):
        total, done = 0, 0

        @override
        def start(self, what: str, total: int, done: int = 0) -> None:
            self.total, self.done = total, 0

        @override
        def advance(self, count: int) -> None:
            self.done += count
            asked[-1].append("moved")

    class Watched(ScriptedDescriber):
        @override
        def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
            asked.append([q.image for q in queries])
            return super().answer(queries, sampling)

    progress = Counting()
    ask(Watched(lambda query, sample: "none"), items, ["where?"] * len(items), "where", progress)
    assert (progress.total, progress.done) == (60, 60)
    assert len(asked) == 4
    images = [{name for name in part if name != "moved"} for part in asked]
    assert sum(map(len, images)) == 20


@pytest.mark.parametrize(
    ("said", "read"), [("off", "off"), ("warn", "warn"), ("stop", "stop"), ("'off'", "off")]
)
def test_off_is_no_boolean(world: Path, tmp_path: Path, said: str, read: str) -> None:
    """YAML reads `off` as false."""
    path = tmp_path / "c.yaml"
    path.write_text(
        f"run: r\ndata: {{format: coco, annotations: a, images: i}}\nmodel: {{folder: m}}\ndoctor: {said}\n"
    )
    assert load_config(path).doctor == read
    with pytest.raises(ConfigError, match="doctor: found True"):
        load_config(path, ["doctor=on"])


def test_a_picture_that_cannot_be_shown_is_named_and_left_out(world: Path, tmp_path: Path) -> None:
    """A strip that the processor refuses ended in a traceback; a missing file is no fault of the model's."""
    coco = json.loads((world / "instances.json").read_text())
    folder = tmp_path / "images"
    shutil.copytree(world / "images", folder)
    (folder / "03.png").unlink()
    noise(0, (460, 2)).save(folder / "strip.png")
    coco["images"].append({"id": 90, "file_name": "strip.png", "width": 460, "height": 2})
    coco["annotations"].append(
        {"id": 900, "image_id": 90, "category_id": 0, "bbox": [1, 0, 90, 2], "area": 9}
    )
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    qwen = get_dialect("qwen2_5_vl", **right_options(world))  # type: ignore[arg-type]
    plain = config(world, tmp_path / "run", None)
    data = replace(plain.data, annotations=str(tmp_path / "instances.json"), images=str(folder))
    regions = replace(plain.regions, verify=False)
    findings = doctor_config(
        replace(plain, data=data, regions=regions),
        QUIET,
        model_that_writes(world, in_dialect(qwen)),
        Console(quiet=True),
    )
    found = {f.check: f for f in findings}
    assert found["pictures"].verdict == "look"
    assert found["pictures"].found.startswith("1 of 20 images cannot be shown (missing")
    assert found["contract"].verdict == "fine"
    assert "of 57 boxes" in found["contract"].found
