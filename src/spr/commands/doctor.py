"""`spr doctor` and `spr describe --preview`: look at a model before a long run, not after it.

In: a configuration. Out: a table and a page with pictures; or the prompts as the model receives them. The
doctor only advises: it reads the truth, and nothing that scores or evaluates asks it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.console import Console

from spr.data.index import open_index
from spr.dialects import get_dialect, known_names, resize_options
from spr.doctor.examine import (
    Picture,
    box_findings,
    choose_items,
    engine_finding,
    examine_boxes,
    expression,
    processor_findings,
    reading_finding,
    wording,
)
from spr.doctor.readings import Item
from spr.doctor.show import doctor_page, print_table
from spr.doctor.verdict import Finding
from spr.errors import ConfigError, DataError
from spr.report.page import plain_page
from spr.run.pairs import do_index, do_regions
from spr.run.preflight import preflight
from spr.run.wiring import Config, build_describer, dialect_of, image_store
from spr.stages.describe import queries_of
from spr.store.folders import INDEX, REGIONS
from spr.store.progress import Progress
from spr.store.run import Run
from spr.types import Query, Region

if TYPE_CHECKING:
    from spr.data.images import ImageStore
    from spr.ports import Describer

__all__ = ["doctor_config", "preview_prompts"]
PREVIEWED = 3  # regions


def doctor_config(
    config: Config, progress: Progress, describer: Describer | None = None, console: Console | None = None
) -> list[Finding]:
    """Examine what the configuration names; print a table and write <run>/doctor.html. `describer` stands in
    for the configured model.
    """
    run, store, dialect = Run(config.run), image_store(config), dialect_of(config)
    if describer is None:
        preflight([(config, run)], ["index", "doctor"], progress)
    items = _items(config, run, progress)
    findings = [Finding("dialect", str(dialect), "fine" if dialect.contract.verified else "look")]
    asked = wording(dialect, "rec", config.evaluate.benchmarks)
    progress.start("doctor: processor", len(items))
    processor, model_config = _processor(config)
    if processor is None:
        findings.append(
            Finding("processor", f"none in {config.model.folder}: sizes and tokens are not known", "look")
        )
    else:
        from spr.models.look import cropping

        complaint = cropping(processor, dialect)
        findings += [Finding("crop", complaint, "wrong")] if complaint else []
        pictures, longest = _pictures(
            processor, model_config, items, asked, store, crops=complaint is not None, progress=progress
        )
        context = getattr(model_config.get_text_config(decoder=True), "max_position_embeddings", None)
        findings += processor_findings(
            items, pictures, dialect, longest, config.describe.max_new_tokens, context
        )
    progress.start("doctor: loading the model", 0)
    describer = describer or build_describer(config, store, whole_images=False)
    processor_sizes = _sizes(config)
    exam = examine_boxes(
        describer,
        items,
        dialect,
        processor_sizes,
        asked,
        [wording(get_dialect(n), "rec") for n in known_names("boxes")],
        progress,
    )
    findings += box_findings(exam, dialect, processor_sizes)
    shown = wording(dialect, "region_caption", config.evaluate.benchmarks)
    findings.append(reading_finding(describer, items, dialect, shown, progress))
    if config.model.kind == "hf" and config.model.url:
        second = replace(config, model=replace(config.model, kind="endpoint"))
        findings.append(engine_finding(exam, build_describer(second, store), dialect, progress))
    progress.end()
    title = f"{config.model.folder}, {dialect.name}"
    print_table(title, findings, console or Console())
    run.write_bytes(doctor_page(title, findings, exam.samples, dialect, store.load).encode(), "doctor.html")
    return findings


def _items(config: Config, run: Run, progress: Progress) -> list[Item]:
    """Objects with known boxes, out of the run's own index."""
    do_index(config, run, progress)
    index = open_index(run.path(INDEX))
    images = index.images(config.data.where)[:5000]
    items = choose_items(images, index.annotations_of([i.image_id for i in images]), config.seed)
    if not items:
        raise DataError(
            f"{config.data.annotations}: no image has an annotated object, so there is nothing to ask for"
        )
    return items


def _processor(config: Config) -> tuple[Any, Any]:
    """The model's processor and configuration; (None, None) when an endpoint's folder has none."""
    from spr.models.loading import load_processor, read_config

    try:
        model_config = read_config(config.model.checkpoint)
        return load_processor(config.model.checkpoint), model_config
    except ConfigError:
        if config.model.kind == "hf":
            raise
        return None, None


def _pictures(
    processor: Any,
    model_config: Any,
    items: list[Item],
    template: str,
    store: ImageStore,
    crops: bool,
    progress: Progress,
) -> tuple[list[Picture], int]:
    """What the processor makes of each image, and the tokens of the longest prompt."""
    from spr.models.look import prompt_tokens, seen_size, share_cut_off

    pictures, longest = [], 0
    for item in items:
        image = store.load(item.image)
        _, tokens, image_tokens = prompt_tokens(
            processor, model_config, template.format(expression=expression(item)), (image,)
        )
        pictures.append(
            Picture(
                seen_size(processor, image), image_tokens, share_cut_off(processor, image) if crops else 0.0
            )
        )
        longest = max(longest, tokens)
        progress.advance(1)
    return pictures, longest


def _sizes(config: Config) -> dict[str, int]:
    """The limits of the checkpoint's image processor, where its sizes depend on them."""
    from spr.models.families import image_settings

    m = config.model
    settings = image_settings(m.folder, m.processor, m.revision)
    return resize_options(settings) if settings else {}


# --- prompts --------------------------------------------------------------------------------------


def preview_prompts(config: Config, progress: Progress | None = None) -> str:
    """An HTML page with the prompts of the first regions as the model receives them, and how many tokens they
    cost.
    """
    run, store, dialect = Run(config.run), image_store(config), dialect_of(config)
    do_index(config, run, progress or Progress())
    do_regions(config, run, progress or Progress())
    regions = run.read_stage(Region, REGIONS)[:PREVIEWED]
    processor, model_config = _processor(config)
    parts = []
    for region in regions:
        for name, query in zip(
            config.describe.templates, queries_of(region, config.describe, dialect), strict=True
        ):
            parts.append(Markup("<h2>{}, {}</h2>").format(region.region_id, name))
            parts.append(_prompt_markup(query, processor, model_config, store))
    return plain_page(f"Prompts of {config.model.folder}", Markup("").join(parts))


def _prompt_markup(query: Query, processor: Any, model_config: Any, store: ImageStore) -> Markup:
    """One prompt: after the chat template where there is one here, else as it is sent to the server."""
    from spr.models.pictures import crop

    if processor is None:
        return Markup("<p>as sent; the server applies its template</p><pre>{}</pre>").format(query.prompt)
    from spr.models.look import prompt_tokens

    image = store.load(query.image)
    images = (image,) if query.crop is None else (image, crop(image, query.crop))
    text, tokens, image_tokens = prompt_tokens(processor, model_config, query.prompt, images)
    return Markup("<p>{} tokens, {} of them for {} image(s)</p><pre>{}</pre>").format(
        tokens, image_tokens, len(images), text
    )
