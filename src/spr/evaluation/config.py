"""The `evaluate` section of a configuration: which benchmarks, asked how, measured how.

`options` are the protocol's metric options (changing them never runs a model again); `reader` are options of
the file form. Both are checked against the dataclass of the protocol or the reader; `docs/evaluation.md`
lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from spr.ranges import Count, Seed, check_ranges


@dataclass(frozen=True, slots=True)
class BenchmarkConfig:
    """One benchmark: files of one form, asked under one protocol."""

    name: str  # folder under evaluation/
    protocol: str
    format: str
    path: str = ""  # one file or folder …
    paths: Mapping[str, str] = field(default_factory=dict)  # … or one per split: {split: path}
    images: str = ""  # folder or URL that image names are relative to
    split: str = ""  # name of the split of `path`; for a file with several splits, the one to take
    limit: Count | None = None  # the first `limit` items
    prompt: str | None = None  # None: the dialect's own question for this protocol
    max_new_tokens: Count | None = None  # None: the protocol's
    check_images: bool = True  # that every local image exists, before a model is loaded
    options: Mapping[str, Any] = field(default_factory=dict)
    reader: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, f"evaluate.benchmarks[{self.name}]")

    def resolved(self, resolve: Callable[[str], str]) -> BenchmarkConfig:
        """The same with absolute paths."""
        return replace(
            self,
            path=resolve(self.path) if self.path else "",
            paths={split: resolve(path) for split, path in self.paths.items()},
            images=resolve(self.images) if self.images else "",
        )


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """All benchmarks of a run."""

    benchmarks: tuple[BenchmarkConfig, ...] = ()
    limit: Count | None = None  # of every benchmark, where it has no smaller one: a quick look
    bootstrap: Count = 2000  # ours: resamples of the images for the 95 % intervals
    seed: Seed = 0  # of the resampling

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot be."""
        check_ranges(self, "evaluate")

    def resolved(self, resolve: Callable[[str], str]) -> EvaluationConfig:
        """The same with absolute paths."""
        return replace(self, benchmarks=tuple(b.resolved(resolve) for b in self.benchmarks))
