"""The names of everything in a run folder. They stand here once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

INDEX: Final = "index"
REGIONS: Final = "regions"
CANDIDATES: Final = "candidates"
SCORES: Final = "scores"
PAIRS: Final = "pairs"
ADAPTER: Final = "adapter"  # a folder per adapter inside it
EVALUATION: Final = "evaluation"  # <benchmark>/<model> inside it
REPORT: Final = "report.html"

FOLDERS: Mapping[str, str] = {  # by the verb of the stage that fills it
    "index": INDEX,
    "regions": REGIONS,
    "describe": CANDIDATES,
    "score": SCORES,
    "pair": PAIRS,
    "train": ADAPTER,
    "evaluate": EVALUATION,
    "report": REPORT,
}
STAGES = tuple(FOLDERS)
UNTIL_PAIR = STAGES[: STAGES.index("train")]

ROUNDS: Final = "rounds"  # <adapter>/2 … inside it, each with the folders of a run
ABLATIONS: Final = "ablations"  # <keys>/<variant> inside it, the same
JOURNAL: Final = "journal"  # while a server answers

STAGE_FILE: Final = "_stage.json"  # of a finished stage
CONFIG_FILE: Final = "_config.json"  # what a stage was started with
TIMES_FILE: Final = "_times.json"  # how long it took, apart from all that two equal runs have in common
DROPPED: Final = "dropped"  # folder of a stage: what was left out
IMAGES: Final = "images"  # folder of a stage: the images that it was the first to open
PREDICTIONS: Final = "predictions.parquet"
METRICS: Final = "metrics.json"
COMPARISON: Final = "comparison.json"
TABLES: Final = "tables.md"
