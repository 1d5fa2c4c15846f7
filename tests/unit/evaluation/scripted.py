"""A describer that says what it is told to, by item id: an ordinary class, so that every protocol runs
without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from spr.data.full_paths import FullPaths
from spr.dialects import Dialect
from spr.evaluation.config import EvaluationConfig
from spr.evaluation.stage import evaluate_all
from spr.ports import Describer
from spr.store.identity import Origin
from spr.store.progress import Progress
from spr.store.run import Run
from spr.store.runtime import RuntimeConfig
from spr.types import Answer, Query, Sampling


@dataclass
class Scripted:
    """Answers by item id (the part after the benchmark's name), else by a function of the query."""

    answers: Mapping[str, str | Answer] = field(default_factory=dict)
    otherwise: Callable[[Query], str] = lambda query: ""
    log: str | None = None  # a file that gets the number of queries of each call
    fail_after: int | None = None  # raise after so many calls, as a kill would
    calls: int = 0
    seen: list[Query] = field(default_factory=list)

    def answer(self, queries: Sequence[Query], sampling: Sampling) -> list[list[Answer]]:
        """One answer per query."""
        if self.fail_after is not None and self.calls >= self.fail_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.seen += queries
        assert (sampling.n, sampling.temperature) == (1, 0.0), "evaluation is greedy"
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as f:
                f.write(f"{len(queries)}\n")
        found = [self.answers.get(q.item_id.partition("/")[2], self.otherwise(q)) for q in queries]
        return [[a if isinstance(a, Answer) else Answer(a)] for a in found]


def _without_images(make: Callable[[], Describer], store: FullPaths) -> Describer:
    return make()


def ask(
    run: Run,
    section: EvaluationConfig,
    dialect: Dialect,
    makers: Mapping[str, Callable[[], Describer]],
    runtime: RuntimeConfig | None = None,
    folder: str = "evaluation",
) -> None:
    """Stage `evaluate` with describers that open no image."""
    evaluate_all(
        run,
        folder,
        section,
        dialect,
        {name: partial(_without_images, make) for name, make in makers.items()},
        {name: Origin("evaluate", {"model": name}, {}) for name in makers},
        runtime or RuntimeConfig(),
        Progress(),
    )
