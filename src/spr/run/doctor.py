"""The examination of a configured model: all of it for `spr doctor`, a short form before `spr run` describes.

In: a configuration and its run. Out: findings, and the answers that the pictures show. The run's index and
its regions are made, nothing else. What the doctor asks and how it judges stands in `spr.doctor`; here it
meets the configuration. It only advises: it reads the truth, and nothing that scores or evaluates asks it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import Image
from typing_extensions import override

from spr.data.full_paths import FullPaths
from spr.data.index import open_index
from spr.dialects import Dialect, get_dialect, known_names, resize_options
from spr.doctor.examine import (
    BoxExam,
    Picture,
    Sample,
    Trial,
    answers_of,
    box_findings,
    choose_items,
    engine_finding,
    examine_boxes,
    processor_findings,
    prompts_finding,
    question,
    reading_finding,
    reply,
    time_finding,
    wording,
)
from spr.doctor.readings import Item
from spr.doctor.verdict import Finding
from spr.errors import ConfigError, DataError, FoundWrongError, why_no_picture
from spr.evaluation.items import Item as Question
from spr.evaluation.items import by_image
from spr.evaluation.stage import asking_of, prepare, query_of
from spr.run.pairs import do_index, do_regions, need_files
from spr.run.wiring import Config, build_describer, dialect_of, image_store, trainings
from spr.stages.describe import queries_of
from spr.stages.prompts import templates_with
from spr.store.crew import crew_of
from spr.store.folders import CANDIDATES, INDEX, REGIONS
from spr.store.progress import Progress
from spr.store.run import Run
from spr.store.runtime import set_threads
from spr.store.workers import Job, nothing
from spr.types import Answer, Frame, Query, Region, Sampling

if TYPE_CHECKING:
    from spr.data.images import ImageStore
    from spr.ports import Describer

SEEN = 5000  # images that are looked through for questions


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is asked (ours): images and questions about known boxes, regions, questions of each
    benchmark.
    """

    images: int
    questions: int
    regions: int
    benchmark: int


FULL, SHORT = Extent(20, 200, 5, 16), Extent(10, 48, 2, 0)


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found, and the questions about known boxes with their answers."""

    findings: tuple[Finding, ...]
    samples: tuple[Sample, ...]

    @property
    def wrong(self) -> list[Finding]:
        """What would spoil a run."""
        return [f for f in self.findings if f.verdict == "wrong"]


class _Images(FullPaths):
    """The pictures of the data set by their names there, and of benchmarks by their full paths."""

    def __init__(self, store: ImageStore) -> None:
        super().__init__()
        self._store, self.benchmark = store, set[str]()

    @override
    def load(self, path: str) -> Image.Image:
        return super().load(path) if path in self.benchmark else self._store.load(path)


def examine(
    config: Config, run: Run, progress: Progress, extent: Extent = FULL, describer: Describer | None = None
) -> Examination:
    """Ask the model and look at what it says. `describer` stands in for the configured model. Raises
    UnfinishedError when a question was not answered.
    """
    do_index(config, run, progress)
    dialect, images = dialect_of(config), _Images(image_store(config))
    items = _items(config, run, extent)
    findings = [Finding("dialect", str(dialect), "fine" if dialect.contract.verified else "look")]
    about, items = _processor_findings(config, dialect, items, images, progress)
    findings += about
    if describer is None:
        progress.start("doctor: loading the model", 0)
        set_threads(config.runtime.threads)  # as the run has them: it is timed
        describer = build_describer(config, images, whole_images=False)
    samples: tuple[Sample, ...] = ()
    if items:
        exam = _boxes(config, dialect, describer, items, progress)
        findings += _told(box_findings(exam, dialect, processor_sizes(config)), config)
        samples = exam.samples
        if extent == FULL:
            shown = wording(dialect, "region_caption", config.evaluate.benchmarks)
            findings.append(reading_finding(describer, items, dialect, shown, progress))
            if config.model.kind != "endpoint" and config.model.url:
                second = replace(config, model=replace(config.model, kind="endpoint"))
                findings.append(engine_finding(exam, build_describer(second, images), dialect, progress))
    else:
        findings.append(
            Finding("contract", "no image has an annotated object: nothing to compare with", "look")
        )
    trials: list[Trial] = []
    try:
        do_regions(config, run, progress)
        trials += _descriptions(config, run, dialect, describer, extent.regions, progress)
    except DataError as e:  # there are no regions; a model can be examined all the same
        findings.append(Finding("descriptions", f"there is nothing to describe: {e}", "look"))
    if extent.benchmark:
        trials += _benchmarks(config, dialect, describer, images, extent.benchmark, progress)
    progress.end()
    findings += [prompts_finding(trial) for trial in trials]
    findings += [time_finding(trials)] if trials else []
    return Examination(tuple(findings), samples)


def look_before(config: Config, run: Run, progress: Progress) -> None:
    """The short form, before anything is described: what is not fine is told, and what is wrong stops the
    run, as `doctor` of the configuration says. Raises FoundWrongError.
    """
    if config.doctor == "off" or run.exists(CANDIDATES):
        return
    found = _examine_by_a_worker(config, run, progress)
    for finding in found.findings:
        if finding.verdict != "fine":
            progress.tell(f"doctor: {finding.verdict}: {finding.check}: {finding.found}")
    if found.wrong and config.doctor == "stop":
        first = found.wrong[0]
        raise FoundWrongError(
            f"{first.check}: {first.found}. Nothing was described; `spr doctor` looks longer and draws the "
            "boxes, `doctor: warn` goes on all the same"
        )


def _examine_by_a_worker(config: Config, run: Run, progress: Progress) -> Examination:
    """The short form where the stage will work: a cluster's head has no accelerator, maybe."""
    seen = progress
    if config.runtime.executor == "ray":
        progress.start("doctor: on the cluster", 1)
        seen = Progress()  # a bar cannot travel
    found: list[Examination] = []
    with crew_of(replace(config.runtime, workers=1)) as crew:
        task = partial(_examine_here, config, run, seen)
        crew.work(Job(nothing, {0: task}, lambda number, examination: found.append(examination)))
    progress.end()
    return found[0]


def _examine_here(config: Config, run: Run, progress: Progress, kept: None) -> Examination:
    found = examine(config, run, progress, SHORT)
    if config.model.kind == "hf":  # the stage loads the model itself, maybe in other processes
        from spr.models.devices import free_memory

        free_memory()
    return found


# --- known boxes ------------------------------------------------------------------------------------


def _items(config: Config, run: Run, extent: Extent) -> list[Item]:
    """Objects with known boxes, out of the run's own index."""
    index = open_index(run.path(INDEX))
    images = index.images(config.data.where, SEEN)
    boxes = index.annotations_of([image.image_id for image in images])
    return choose_items(images, boxes, config.seed, extent.images, extent.questions)


def _boxes(
    config: Config, dialect: Dialect, describer: Describer, items: Sequence[Item], progress: Progress
) -> BoxExam:
    return examine_boxes(
        describer,
        items,
        dialect,
        processor_sizes(config),
        wording(dialect, "rec", config.evaluate.benchmarks),
        [wording(get_dialect(name), "rec") for name in known_names("boxes")],
        progress,
    )


def _told(findings: Sequence[Finding], config: Config) -> list[Finding]:
    """Options that the configuration gives beside `dialect` would change the advised one."""
    extra = " and take model.dialect_options out" if config.model.dialect_options else ""
    return [replace(f, found=f.found + extra) if "set dialect: " in f.found else f for f in findings]


def processor_sizes(config: Config) -> dict[str, int]:
    """The limits of the checkpoint's image processor, where its sizes depend on them."""
    from spr.models.families import image_settings

    m = config.model
    settings = image_settings(m.folder, m.processor, m.revision)
    return resize_options(settings) if settings else {}


# --- the processor ----------------------------------------------------------------------------------


def load_processor_of(config: Config) -> tuple[Any, Any]:
    """The model's processor and configuration; (None, None) when an endpoint's folder has none."""
    from spr.models.loading import load_processor, read_config

    try:
        model_config = read_config(config.model.checkpoint)
        return load_processor(config.model.checkpoint), model_config
    except ConfigError:
        if config.model.kind == "hf":
            raise
        return None, None


def _processor_findings(
    config: Config, dialect: Dialect, items: Sequence[Item], images: FullPaths, progress: Progress
) -> tuple[list[Finding], list[Item]]:
    """What the processor does, and the items whose pictures it can show."""
    processor, model_config = load_processor_of(config)
    if processor is None:
        said = f"none in {config.model.folder}: sizes and tokens are not known"
        return [Finding("processor", said, "look")], list(items)
    from spr.models.look import cropping

    complaint = cropping(processor, dialect)
    crops = complaint is not None
    asked = wording(dialect, "rec", config.evaluate.benchmarks)
    each = list({item.image: item for item in items}.values())
    progress.start("doctor: processor", len(each))
    pictures: dict[str, Picture] = {}
    lost: list[str] = []
    longest = 0
    for item in each:
        try:
            picture, tokens = _picture(
                processor, model_config, item, question(asked, item, dialect), images, crops
            )
            pictures[item.image], longest = picture, max(longest, tokens)
        except (OSError, DataError, ValueError) as e:
            lost.append(why_no_picture(e))
        progress.advance(1)
    found = [Finding("crop", complaint, "wrong")] if complaint else []
    if lost:
        said = f"{len(lost)} of {len(each)} images cannot be shown ({lost[0]}); nothing is asked about them"
        found.append(Finding("pictures", said, "look"))
    if pictures:
        context = getattr(model_config.get_text_config(decoder=True), "max_position_embeddings", None)
        shown = [item for item in each if item.image in pictures]
        room = config.describe.max_new_tokens
        found += processor_findings(shown, list(pictures.values()), dialect, longest, room, context)
    return found, [item for item in items if item.image in pictures]


def _picture(
    processor: Any, model_config: Any, item: Item, prompt: str, images: FullPaths, crops: bool
) -> tuple[Picture, int]:
    """What the processor makes of an image, and the tokens of the prompt."""
    from spr.models.look import prompt_tokens, seen_size, share_cut_off

    image = images.load(item.image)
    _, tokens, image_tokens = prompt_tokens(processor, model_config, prompt, (image,))
    cut = share_cut_off(processor, image) if crops else 0.0
    return Picture(seen_size(processor, image), image_tokens, cut), tokens


# --- the run's own prompts -------------------------------------------------------------------------


def _ask(
    describer: Describer, queries: Sequence[Query], sampling: Sampling, what: str, progress: Progress
) -> tuple[list[Answer], float]:
    """One answer to each, and the seconds that they took. Raises UnfinishedError."""
    progress.start(f"doctor: {what}", len(queries))
    begin = time.monotonic()
    found = answers_of(describer, queries, sampling, progress)
    return found, time.monotonic() - begin


def _descriptions(
    config: Config,
    run: Run,
    dialect: Dialect,
    describer: Describer,
    count: int,
    progress: Progress,
) -> list[Trial]:
    """Each template of the run about some of its regions, sampled as the run samples."""
    regions = run.read_stage(Region, REGIONS)[:count]
    d, templates = config.describe, templates_with(config.prompts)
    queries = []
    for region in regions:
        with contextlib.suppress(ValueError):  # an image that this dialect cannot say a region of
            queries += queries_of(region, d, dialect, templates)
    kinds = list(d.templates) * (len(queries) // len(d.templates))
    sampling = Sampling(1, d.temperature, d.top_p, d.max_new_tokens, config.seed)
    answers, seconds = _ask(describer, queries, sampling, "descriptions", progress)
    replies = [
        reply(kind, answer, Frame(query.width, query.height), dialect)
        for kind, answer, query in zip(kinds, answers, queries, strict=True)
    ]
    total = run.finished(REGIONS).rows * len(d.templates) * d.samples
    return [Trial("descriptions", replies, d.max_new_tokens, seconds, total, needed=True)] if replies else []


def _some(items: Sequence[Question], count: int) -> list[Question]:
    """At least so many questions, with all about an image, from images all over the benchmark."""
    images = by_image(items)
    step = max(1, len(items) // count)
    found: list[Question] = []
    for same in images[::step]:
        if len(found) >= count:
            break
        found += same
    return found


def _benchmarks(
    config: Config,
    dialect: Dialect,
    describer: Describer,
    images: _Images,
    count: int,
    progress: Progress,
) -> list[Trial]:
    """Some questions of each benchmark, asked and read as it does."""
    need_files(config.evaluate, progress)
    trials = []
    for benchmark in config.evaluate.benchmarks:
        benchmark, protocol, options, items, _ = prepare(benchmark, config.evaluate.limit, dialect)
        asking = asking_of(benchmark, protocol, dialect)
        asked = [(item, query_of(item, asking, dialect)) for item in _some(items, count)]
        pairs = [(item, query) for item, query in asked if isinstance(query, Query)]
        if not pairs:
            continue
        images.benchmark |= {item.image for item, _ in pairs}
        sampling = Sampling(1, 0.0, 1.0, asking.max_new_tokens)
        answers, seconds = _ask(describer, [q for _, q in pairs], sampling, benchmark.name, progress)
        replies = []
        for (item, _), answer in zip(pairs, answers, strict=True):
            rows = protocol.judge(item, answer, protocol.name, dialect)
            read = any(protocol.reads(row, options) for row in rows)
            plain = reply(benchmark.name, answer, item.frame, dialect)
            replies.append(replace(plain, read=read))
        total = len(items) * (1 + len(trainings(config)))
        name = f"benchmark {benchmark.name}"
        trials.append(Trial(name, replies, asking.max_new_tokens, seconds, total, needed=False))
    return trials
