"""Stage `evaluate`: benchmarks x models -> predictions, metrics, comparisons.

In: the `evaluate` section, a dialect, one factory of a describer per model. Out, under
run/<folder>/<benchmark>/:

    <model>/part-*.parquet …      resumable shards; the unit is an image with all its questions, asked as one
                                  group, greedily
    <model>/predictions.parquet   all rows (`spr.types.Prediction`)
    <model>/metrics.json          computed from that file alone
    comparison.json               every other model against "base": paired differences, items that changed
                                  sides

and beside them tables.md, and lmms_eval_<model>_results.json for tables made with lmms-eval.

Rows depend on the questions, the prompt and the model; metric options do not touch them. An answer that
failed is a row (wrong, unparsed, failed); one that may come when it is asked for again is none: the stage
stays unfinished.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from spr.data.full_paths import FullPaths
from spr.data.images import open_store
from spr.dialects import Dialect, get_dialect
from spr.errors import ConfigError
from spr.evaluation.config import BenchmarkConfig, EvaluationConfig
from spr.evaluation.items import Item, by_image, digest
from spr.evaluation.lmms import lmms_results
from spr.evaluation.meteor import require_meteor
from spr.evaluation.protocols import protocol_named
from spr.evaluation.protocols.base import Protocol, counts_points, full_id, question, why_failed
from spr.evaluation.protocols.region_caption import CaptionOptions
from spr.evaluation.readers import read_benchmark
from spr.evaluation.results import compare, measure
from spr.evaluation.rows import AnswerRow, read_predictions, write_predictions
from spr.evaluation.tables import comparison_table, problem_list
from spr.ports import Describer
from spr.store.config import load
from spr.store.crew import crew_of
from spr.store.executor import Stage, run_stage
from spr.store.folders import COMPARISON, METRICS, PREDICTIONS, STAGE_FILE, TABLES
from spr.store.identity import Origin
from spr.store.lease import BRIEFLY, sole_writer
from spr.store.progress import Named, Progress, counted
from spr.store.run import Run
from spr.store.runtime import RuntimeConfig
from spr.store.workers import Crew, overlapping
from spr.types import Answer, Dropped, Findings, Prediction, Query, Sampling, ShardResult

Maker = Callable[[FullPaths], Describer]  # a describer that loads its images there
# ours: questions of one image that may share a forward pass; LVIS has images with hundreds of objects
GROUP = 32
FAILED = "failed_answers"  # a figure of _stage.json: the share in [0, 1]


@dataclass(frozen=True, slots=True)
class Asking:
    """All that a worker needs to ask: picklable, because it goes to other processes."""

    benchmark: str
    protocol: str
    template: str
    max_new_tokens: int
    dialect: str
    dialect_options: Mapping[str, Any]
    official: bool

    def reading(self) -> Dialect:
        """The dialect."""
        return get_dialect(
            self.dialect, encode="official" if self.official else "nearest", **self.dialect_options
        )


@dataclass(frozen=True, slots=True)
class AskedImage:
    """All questions of a benchmark about one image, and its digest, where it was opened before."""

    asking: Asking
    items: list[Item]
    known: str = ""


def asking_of(benchmark: BenchmarkConfig, protocol: Protocol, dialect: Dialect) -> Asking:
    """How a benchmark is asked in a dialect."""
    template = protocol.template(dialect, benchmark.prompt)
    tokens = benchmark.max_new_tokens or protocol.max_new_tokens
    return Asking(
        benchmark.name, protocol.name, template, tokens, dialect.name, dialect.options, dialect.official
    )


def query_of(item: Item, asking: Asking, dialect: Dialect, part: int = 0) -> Query | Answer:
    """The question, grouped by image and part; or the reason why it cannot be written in this dialect (an
    image that it cannot show).
    """
    try:
        prompt = question(asking.template, item, dialect)
    except ValueError as e:
        return Answer("", failed=f"question: {e}")
    return Query(
        item_id=f"{asking.benchmark}/{item.split}/{item.item_id}",
        image=item.image,
        width=item.width,
        height=item.height,
        prompt=prompt,
        group=f"{asking.benchmark}/{item.image}/{part}",
    )


def _work(make: Maker) -> Callable[[Sequence[AskedImage]], ShardResult[Prediction]]:
    store = FullPaths()
    describer = make(store)

    def work(images: Sequence[AskedImage]) -> ShardResult[Prediction]:
        asking = images[0].asking
        known = {image.items[0].image: image.known for image in images if image.known}
        expected = store.watch.expect((image.items[0].image for image in images), known)
        dialect, judge = asking.reading(), protocol_named(asking.protocol).judge
        sampling = Sampling(n=1, temperature=0.0, top_p=1.0, max_new_tokens=asking.max_new_tokens)
        items = [item for image in images for item in image.items]
        asked = [
            query_of(item, asking, dialect, k // GROUP)
            for image in images
            for k, item in enumerate(image.items)
        ]
        queries = [q for q in asked if isinstance(q, Query)]
        answers = iter(describer.answer(queries, sampling) if queries else [])
        given = [next(answers)[0] if isinstance(q, Query) else q for q in asked]
        rows: list[Prediction] = []
        again: list[Dropped] = []
        for item, query, answer in zip(items, asked, given, strict=True):
            if answer.again:
                again.append(Dropped.of(full_id(item), answer.failed or ""))
                continue
            prompt = query.prompt if isinstance(query, Query) else ""
            judged = judge(item, answer, asking.protocol, dialect)
            rows.extend(replace(row, question=prompt) for row in judged)
        return ShardResult(rows, again=again, images=expected.new())

    return overlapping(work, describer)


def failed_answers(rows: Iterable[Prediction]) -> Findings:
    """How many answers failed, and why."""
    total, why = 0, Counter[str]()
    for row in rows:
        total += 1
        if (reason := why_failed(row)) is not None:
            why[Dropped.of(row.item_id, reason).reason] += 1
    if not why:
        return Findings({})
    share = sum(why.values()) / total
    return Findings({FAILED: share}, (f"{sum(why.values())} of {total} answers failed ({counted(why)})",))


def metric_options(benchmark: BenchmarkConfig, protocol: Protocol) -> Any:
    """The protocol's options, checked. Raises ConfigError."""
    return load(protocol.options, benchmark.options, f"evaluate.benchmarks[{benchmark.name}].options")


def _check_names(config: EvaluationConfig) -> None:
    names = [b.name for b in config.benchmarks]
    for name in names:
        if not name or "/" in name or name.startswith("."):
            raise ConfigError(f"evaluate.benchmarks: found the name {name!r}, expected a folder name")
        if names.count(name) > 1:
            raise ConfigError(f"evaluate.benchmarks: found the name {name!r} twice, expected unique names")


def _limited(benchmark: BenchmarkConfig, limit: int | None) -> BenchmarkConfig:
    smaller = [n for n in (benchmark.limit, limit) if n is not None]
    return replace(benchmark, limit=min(smaller)) if smaller else benchmark


def size_of(image: str) -> tuple[int, int]:
    """(width, height) of an image's stored pixels, for file forms that do not say it."""
    folder, _, name = image.rpartition("/")
    header = open_store(folder or ".").header(name)
    return header.width, header.height


# a benchmark with its protocol, metric options, items and notes
Ready: TypeAlias = tuple[BenchmarkConfig, Protocol, Any, list[Item], list[str]]


def prepare(benchmark: BenchmarkConfig, limit: int | None, dialect: Dialect) -> Ready:
    """A benchmark with its protocol, metric options, items and notes: everything that can be wrong is found
    here.
    """
    protocol = protocol_named(benchmark.protocol)
    options = metric_options(benchmark, protocol)
    if "boxes" not in dialect.contract.writes and not counts_points(options):
        raise ConfigError(
            f"evaluate.benchmarks[{benchmark.name}]: found the dialect {dialect.name}, which writes points "
            "only, expected protocol: rec with options: {points: true}"
        )
    if isinstance(options, CaptionOptions) and options.meteor:
        require_meteor()
    items, notes = read_benchmark(_limited(benchmark, limit), size_of)
    check_needs(items, protocol, benchmark)
    # a wrong field in the prompt is found here
    query_of(items[0], asking_of(benchmark, protocol, dialect), dialect)
    return benchmark, protocol, options, items, notes


def look_at(config: EvaluationConfig, dialect: Dialect) -> None:
    """Raise ConfigError or DataError for what can be wrong with a benchmark, as far as its first item shows
    it.
    """
    _check_names(config)
    for benchmark in config.benchmarks:
        prepare(benchmark, 1, dialect)


def evaluate_all(
    run: Run,
    folder: str,
    config: EvaluationConfig,
    dialect: Dialect,
    makers: Mapping[str, Maker],
    origins: Mapping[str, Origin],
    runtime: RuntimeConfig,
    progress: Progress,
    crew: Crew | None = None,
) -> str:
    """Ask every model every benchmark, and measure. `origins`: what each model's answers depend on; "base" is
    the reference of comparisons.

    Returns the tables that also stand in tables.md. Everything that can be wrong with the configuration or a
    benchmark file is found before the first model is built.
    """
    _check_names(config)
    ready = [prepare(benchmark, config.limit, dialect) for benchmark in config.benchmarks]
    with contextlib.nullcontext(crew) if crew is not None else crew_of(runtime) as workers:
        for model, make in makers.items():  # the outer loop: every process builds each model once
            make_work = partial(_work, make)
            for benchmark, protocol, _, items, _ in ready:
                asking = asking_of(benchmark, protocol, dialect)
                origin = depends_on(asking, items, benchmark.images, origins[model])
                stage = Stage(
                    origin,
                    (folder, benchmark.name, model),
                    Prediction,
                    make_work,
                    look=failed_answers,
                    name=lambda image: image.items[0].image,
                )
                seen = _seen(run, folder, benchmark.name)
                asked = [AskedImage(asking, i, seen.get(i[0].image, "")) for i in by_image(items)]
                name = f"{benchmark.name} {model}"
                done = run_stage(run, stage, asked, runtime, Named(progress, name), workers)
                if done.figures.get(FAILED) == 1:
                    raise run.nothing_left("answer", "; ".join(done.warnings), *stage.folder)
    with sole_writer(run, folder, patience=BRIEFLY):
        return _tables(run, folder, config, dialect, makers, ready)


def _seen(run: Run, *folder: str) -> dict[str, str]:
    """Digests of the images of a benchmark, from the models that were asked before."""
    models = [(*folder, model) for model in run.folders(*folder)]
    return run.image_digests(*(model for model in models if run.exists(*model, STAGE_FILE)))


def _tables(
    run: Run,
    folder: str,
    config: EvaluationConfig,
    dialect: Dialect,
    models: Iterable[str],
    ready: Sequence[Ready],
) -> str:
    """Everything that is computed from the answers, of all benchmarks."""
    tables: list[str] = []
    for benchmark, protocol, options, items, notes in ready:
        rows: dict[str, list[Prediction]] = {}
        prompt = protocol.template(dialect, benchmark.prompt)
        images = {full_id(item): item.image for item in items}
        for model in models:
            where = (folder, benchmark.name, model)
            rows[model] = collect(run, where, protocol, options, images)
            about = {
                "benchmark": benchmark.name,
                "model": model,
                "dialect": dialect.name,
                "prompt": prompt,
                "notes": notes,
            }
            figures = measure(rows[model], protocol, options, config.bootstrap, config.seed)
            run.keep_json({**about, **figures}, *where, METRICS)
        _compare_all(run, (folder, benchmark.name), rows, protocol, options, config)
        tables.append(_table(run, folder, benchmark.name))
    for model in models:
        found = {b.name: run.read_json(folder, b.name, model, METRICS) for b in config.benchmarks}
        run.keep_json(lmms_results(model, found), folder, f"lmms_eval_{model}_results.json")
    text = "\n\n".join(tables) + "\n"
    run.keep_bytes(text.encode(), folder, TABLES)
    return text


def _table(run: Run, folder: str, benchmark: str) -> str:
    """All measured models on one benchmark, the reference first."""
    comparison = run.read_json(folder, benchmark, COMPARISON)
    models = [comparison["reference"], *comparison["models"]]
    found = {m: run.read_json(folder, benchmark, m, METRICS) for m in models}
    return f"## {benchmark}\n\n{comparison_table(found, comparison)}{problem_list(found)}"


def _compare_all(
    run: Run,
    where: tuple[str, ...],
    rows: dict[str, list[Prediction]],
    protocol: Protocol,
    options: Any,
    config: EvaluationConfig,
) -> None:
    """comparison.json of these models and of those that were measured before on the same items (`left_out`:
    on others).
    """
    earlier = run.read_json(*where, COMPARISON) or {"reference": None, "models": {}}
    ids = [r.item_id for r in next(iter(rows.values()))]
    left_out = []
    for model in (earlier["reference"], *earlier["models"]):
        if model is not None and model not in rows and run.exists(*where, model, PREDICTIONS):
            theirs = read_predictions(run, *where, model)
            if [r.item_id for r in theirs] == ids:
                rows[model] = theirs
                about = run.read_json(*where, model, METRICS)  # the options may have changed since
                figures = measure(theirs, protocol, options, config.bootstrap, config.seed)
                run.keep_json({**about, **figures}, *where, model, METRICS)
            else:
                left_out.append(model)
    comparison = compare(rows, protocol, options, config.bootstrap, config.seed)
    run.keep_json({**comparison, "left_out": left_out}, *where, COMPARISON)


def check_needs(items: Sequence[Item], protocol: Protocol, benchmark: BenchmarkConfig) -> None:
    """Refuse a file form that does not say what the protocol asks for."""
    for item in items:
        missing = [name for name in protocol.needs if getattr(item, name) in (None, "", ())]
        if missing:
            raise ConfigError(
                f"evaluate.benchmarks[{benchmark.name}]: format {benchmark.format!r} gives no "
                f"{', '.join(missing)} for item {item.item_id!r}, "
                f"expected a form that does, for protocol {protocol.name!r}"
            )


def depends_on(asking: Asking, items: Sequence[Item], images: str, answering: Origin) -> Origin:
    """What the answers of one model to one benchmark are made from."""
    asked = {
        "protocol": asking.protocol,
        "prompt": asking.template,
        "max_new_tokens": asking.max_new_tokens,
        "dialect": {
            "name": asking.dialect,
            "options": dict(asking.dialect_options),
            "official": asking.official,
        },
    }
    inputs = {**answering.inputs, "items": digest(items, images)}
    return Origin(answering.stage, {**answering.config, **asked}, inputs)


def collect(
    run: Run, where: tuple[str, ...], protocol: Protocol, options: Any, images: Mapping[str, str]
) -> list[Prediction]:
    """All rows of a finished model, written as one file and read back: metrics come from what users see.
    `images`: where each item's image lies today; a row may be a part of its item ("<item>/<part>").
    """

    def image(row: Prediction) -> str:
        whole = images.get(row.item_id.rpartition("/")[0], row.image)
        return images.get(row.item_id, whole)

    rows = [replace(row, image=image(row)) for row in run.read_stage(Prediction, *where)]
    correct = (
        protocol.tabulate(rows, options).right["accuracy"].tolist()
        if protocol.row is AnswerRow
        else [False] * len(rows)
    )
    write_predictions(run, rows, protocol.row, correct, *where)
    return read_predictions(run, *where)
