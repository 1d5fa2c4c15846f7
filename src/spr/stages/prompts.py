"""Every question that the describe stage asks, in one place.

In: a region and a dialect. Out: the text of the question; the chat template of the model is applied by the
adapter.
Fields: {region} the region's box in the model's own notation; object references built from the annotations,
as {names} ("a cat, an owl and a dog", from left to right) or as {objects}, with their boxes ("cat [10, 20,
30, 40], dog [5, 5, 80, 90]"). `crop` says that the cropped region goes along as a second image. The section
`prompts` of a configuration replaces a template or adds one.
The paper (section 3.2) combines the full image with the cropped region and with object references in
different ways so that answers differ; its wording is not published, so the wording is ours.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spr.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from spr.dialects import Dialect
    from spr.types import Region

FIELDS = ("region", "names", "objects")


@dataclass(frozen=True, slots=True)
class Template:
    """One way to ask for a grounded description of a region."""

    text: str
    crop: bool = False


TEMPLATES: Mapping[str, Template] = {
    # The canonical question: full image and region box, no crop, no hint. It is the prompt of every training
    # pair.
    "plain": Template("Describe the objects in the region {region} in detail, with their locations."),
    "list": Template("What is in the region {region}? Describe every object and give its location."),
    "look": Template(
        "Look at the region {region} and describe what you see there, with a box for each object."
    ),
    "tell": Template("Tell me about the area {region} of the image in detail. Point to each object."),
    "crop": Template(
        "The second image is the region {region} of the first image, enlarged. Describe the objects in "
        "this region in detail, "
        "with their locations in the first image.",
        crop=True,
    ),
    "objects": Template(
        "The region {region} contains: {objects}. Describe the objects in this region in detail, with "
        "their locations."
    ),
    "crop_objects": Template(
        "The second image is the region {region} of the first image, enlarged. It contains: {objects}. "
        "Describe the objects in this region in detail, with their locations in the first image.",
        crop=True,
    ),
}
CANONICAL = "plain"


def templates_with(changes: Mapping[str, Template]) -> Mapping[str, Template]:
    """The built-in templates with those of a configuration. Raises ConfigError for a template with an unknown
    field.
    """
    for name, template in changes.items():
        try:
            fields = [
                field for _, field, _, _ in string.Formatter().parse(template.text) if field is not None
            ]
        except ValueError as e:
            raise ConfigError(
                f"prompts.{name}.text: {e}, expected text with the fields {', '.join(FIELDS)} in braces"
            ) from None
        for field in fields:
            if field not in FIELDS:
                raise ConfigError(f"prompts.{name}.text: " + unknown_name("field", field, FIELDS))
    return {**TEMPLATES, **changes}


def template_named(name: str, templates: Mapping[str, Template] = TEMPLATES) -> Template:
    """The template of that name. Raises ConfigError listing the known names."""
    if name not in templates:
        raise ConfigError("describe.templates: " + unknown_name("template", name, templates))
    return templates[name]


def with_article(name: str) -> str:
    """ "a dog", "an owl"."""
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def question(
    name: str, region: Region, dialect: Dialect, templates: Mapping[str, Template] = TEMPLATES
) -> str:
    """The question of template `name` about a region, with boxes in the dialect's notation."""
    text, frame = template_named(name, templates).text, region.frame
    ordered = sorted(region.objects, key=lambda o: o.box[0] + o.box[2])
    objects = (
        ", ".join(f"{o.category} {dialect.box_text(o.box, frame)}" for o in region.objects)
        if "{objects}" in text
        else ""
    )
    return text.format(
        region=dialect.box_text(region.box, frame),
        names=listed([with_article(o.category) for o in ordered]),
        objects=objects,
    )
