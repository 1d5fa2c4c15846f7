"""`spr doctor` and `spr describe --preview`: look at a model before a long run, not after it.

In: a configuration. Out: a table and a page with pictures; or the prompts as the model receives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.console import Console

from spr.doctor.show import doctor_page, print_table
from spr.doctor.verdict import Finding
from spr.report.page import plain_page
from spr.run.doctor import examine, load_processor_of
from spr.run.pairs import do_index, do_regions
from spr.run.preflight import preflight
from spr.run.wiring import Config, dialect_of, image_store
from spr.stages.describe import queries_of
from spr.stages.prompts import templates_with
from spr.store.folders import REGIONS
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
    run, dialect = Run(config.run), dialect_of(config)
    if describer is None:
        preflight([(config, run)], ["index", "regions", "doctor"], progress)
    found = examine(config, run, progress, describer=describer)
    title = f"{config.model.folder}, {dialect.name}"
    print_table(title, found.findings, console or Console())
    page = doctor_page(title, found.findings, found.samples, dialect, image_store(config).load)
    run.write_bytes(page.encode(), "doctor.html")
    return list(found.findings)


def preview_prompts(config: Config, progress: Progress | None = None) -> str:
    """An HTML page with the prompts of the first regions as the model receives them, and how many tokens they
    cost.
    """
    run, store, dialect = Run(config.run), image_store(config), dialect_of(config)
    do_index(config, run, progress or Progress())
    do_regions(config, run, progress or Progress())
    regions = run.read_stage(Region, REGIONS)[:PREVIEWED]
    processor, model_config = load_processor_of(config)
    templates = templates_with(config.prompts)
    parts = []
    for region in regions:
        queries = queries_of(region, config.describe, dialect, templates)
        for name, query in zip(config.describe.templates, queries, strict=True):
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
