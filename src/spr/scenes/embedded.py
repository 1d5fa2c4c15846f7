"""Where the embedded world and its checkpoints lie: `embedded:` paths of a configuration.

    embedded:mllm, embedded:clip, embedded:owl           checkpoints shipped with the package
    embedded:pair/instances.json, embedded:test/…        files of the world, written into the user's cache
                                                         when first needed

In: such a path. Out: an ordinary path. Nothing after this function knows that the world is synthetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from spr.errors import ConfigError, unknown_name
from spr.scenes.files import VERSION, write_split
from spr.store.files import cache_folder

PREFIX = "embedded:"
CHECKPOINTS = ("mllm", "clip", "owl")
# scenes; the recipe draws what it trains on in memory
COUNTS: Mapping[str, int] = {"pair": 1600, "val": 500, "test": 660, "shifted": 500}


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint that is shipped with the package."""
    return Path(__file__).parent / "checkpoints" / name


def world_folder() -> Path:
    """The folder of the world in the user's cache (`spr.store.files.cache_folder`)."""
    return cache_folder() / f"world-{VERSION}"


def resolve_embedded(path: str) -> str:
    """`embedded:…` as an ordinary path. Raises ConfigError for an unknown checkpoint or split."""
    head, _, rest = path.removeprefix(PREFIX).partition("/")
    if not rest and head in CHECKPOINTS:
        return str(checkpoint_folder(head))
    if head not in COUNTS:
        raise ConfigError(f"{path}: " + unknown_name("checkpoint or split", head, [*CHECKPOINTS, *COUNTS]))
    return str(world_folder() / head / rest)


def ensure_world(
    paths: Iterable[str],
    start: Callable[[str, int], None],
    tick: Callable[[int], None],
    end: Callable[[], None],
) -> None:
    """Write the splits of the world in which some of `paths` lie, unless they are there. The callbacks report
    progress.
    """
    root = world_folder()
    wanted = {
        Path(p).relative_to(root).parts[0] for p in paths if Path(p).is_relative_to(root) and Path(p) != root
    }
    for split in sorted(wanted & set(COUNTS)):
        if not (root / split / "done.json").exists():
            start(f"drawing {split} scenes", COUNTS[split])
            write_split(root, split, COUNTS[split], tick)
            end()
