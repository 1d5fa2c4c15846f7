"""Every question that the describe stage asks, in one place.

In: a region and a dialect. Out: the text of the question; the chat template of the model is applied by the adapter.
Fields: {region} the region's box in the model's own notation; {objects} object references built from the annotations, e.g.
"cat [10, 20, 30, 40], dog [5, 5, 80, 90]". `crop` says that the cropped region goes along as a second image.
The paper (section 3.2) combines the full image with the cropped region and with object references in different ways so that answers
differ; its wording is not published, so the wording is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spr.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from spr.dialects import Dialect
    from spr.types import Region


@dataclass(frozen=True, slots=True)
class Template:
    """One way to ask for a grounded description of a region."""

    text: str
    crop: bool = False


TEMPLATES: Mapping[str, Template] = {
    # The canonical question: full image and region box, no crop, no hint. It is the prompt of every training pair.
    "plain": Template("Describe the objects in the region {region} in detail, with their locations."),
    "list": Template("What is in the region {region}? Describe every object and give its location."),
    "look": Template("Look at the region {region} and describe what you see there, with a box for each object."),
    "tell": Template("Tell me about the area {region} of the image in detail. Point to each object."),
    "crop": Template(
        "The second image is the region {region} of the first image, enlarged. Describe the objects in this region in detail, "
        "with their locations in the first image.",
        crop=True,
    ),
    "objects": Template("The region {region} contains: {objects}. Describe the objects in this region in detail, with their locations."),
    "crop_objects": Template(
        "The second image is the region {region} of the first image, enlarged. It contains: {objects}. "
        "Describe the objects in this region in detail, with their locations in the first image.",
        crop=True,
    ),
}
CANONICAL = "plain"


def template_named(name: str) -> Template:
    """The template of that name. Raises ConfigError listing the known names."""
    if name not in TEMPLATES:
        raise ConfigError("describe.templates: " + unknown_name("template", name, TEMPLATES))
    return TEMPLATES[name]


def question(name: str, region: Region, dialect: Dialect) -> str:
    """The question of template `name` about a region, with boxes in the dialect's notation."""
    template = template_named(name)
    frame = region.frame
    objects = ", ".join(f"{o.category} {dialect.box_text(o.box, frame)}" for o in region.objects) if "{objects}" in template.text else ""
    return template.text.format(region=dialect.box_text(region.box, frame), objects=objects)
