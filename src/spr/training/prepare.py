"""All pairs as tokens, with the reference's log-probabilities: computed once, kept in the adapter's folder,
refused when stale.

In: pairs, model. Out: `Prepared`. The pairs are worked on in shards of 256; each shard is one file, written
whole or not at all, so a killed run goes on with the next shard and processes share the work.
`_config.json` says what the files were made from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spr.errors import DamagedRunError, DataError, StaleRunError
from spr.store.ahead import Ahead
from spr.store.files import whole
from spr.store.progress import Progress
from spr.training.config import TrainConfig
from spr.training.encode import THREADS, Answer, Encoded, Encoder
from spr.training.families import Family
from spr.training.plan import batches_of, units_of
from spr.training.policy import Policy
from spr.types import Dropped, TrainingPair

SHARD = 256  # ours: pairs per file of the cache
AHEAD, TOGETHER = 16, 32  # ours: images that are made ready ahead, and that the reference sees together
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An encoded pair with the reference's log-probability of every answer token; empty arrays where no
    reference is needed.
    """

    pair: Encoded
    chosen: Floats
    rejected: Floats


# --- what the cache was made from -----------------------------------------------------------------


def pairs_digest(pairs: Sequence[TrainingPair]) -> str:
    """SHA-256 (16 digits) of what of the pairs reaches the model, and their margins."""
    total = hashlib.sha256()
    for p in pairs:
        total.update(
            json.dumps(
                [p.pair_id, p.image, p.width, p.height, p.prompt, p.chosen, p.rejected, p.margin, p.reference]
            ).encode()
        )
    return total.hexdigest()[:16]


# --- files of a shard -----------------------------------------------------------------------------

_RAGGED: Mapping[str, Callable[[Prepared], NDArray[Any]]] = {
    "prompt": lambda p: p.pair.prompt,
    "positions": lambda p: p.pair.positions.reshape(-1),
    "image": lambda p: p.pair.image,
    "chosen_ids": lambda p: p.pair.chosen.ids,
    "chosen_weights": lambda p: p.pair.chosen.weights,
    "rejected_ids": lambda p: p.pair.rejected.ids,
    "rejected_weights": lambda p: p.pair.rejected.weights,
    "chosen": lambda p: p.chosen,
    "rejected": lambda p: p.rejected,
}


def _save(path: Path, kept: Sequence[Prepared], dropped: Sequence[Dropped]) -> None:
    columns: dict[str, NDArray[Any]] = {}
    for name, get in _RAGGED.items():
        parts = [get(p) for p in kept]
        columns[name] = np.concatenate(parts) if parts else np.zeros(0)
        columns[f"{name}/lengths"] = np.asarray([len(x) for x in parts], dtype=np.int64)
    about = {
        "pairs": [
            [p.pair.pair_id, p.pair.image_path, p.pair.question, p.pair.margin, p.pair.picture] for p in kept
        ],
        "dropped": [[d.item_id, d.reason, d.detail] for d in dropped],
    }
    columns["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **columns)  # type: ignore[arg-type]


def _load(path: Path) -> tuple[list[Prepared], list[Dropped]]:
    try:
        with np.load(path) as data:
            columns = dict(data)
            about = json.loads(columns["about"].tobytes())
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as e:
        raise DamagedRunError(f"{path}: cannot be read ({e}); delete it, and it is made again") from None
    pairs = about["pairs"]
    parts = {n: np.split(columns[n], np.cumsum(columns[f"{n}/lengths"])[:-1]) for n in _RAGGED if pairs}
    kept = []
    for i, (pair_id, image_path, question, margin, picture) in enumerate(pairs):
        c = {n: parts[n][i] for n in _RAGGED}
        chosen, rejected = (
            Answer(c["chosen_ids"], c["chosen_weights"]),
            Answer(c["rejected_ids"], c["rejected_weights"]),
        )
        positions = c["positions"].reshape(-1, len(c["prompt"]))
        pair = Encoded(
            pair_id,
            image_path,
            question,
            c["prompt"],
            positions,
            c["image"],
            chosen,
            rejected,
            margin,
            picture,
        )
        kept.append(Prepared(pair, c["chosen"], c["rejected"]))
    return kept, [Dropped(*d) for d in about["dropped"]]


# --- the work -------------------------------------------------------------------------------------


class Preparer:
    """Encodes pairs and asks the reference."""

    def __init__(
        self,
        model: Any,
        family: Family,
        encoder: Encoder,
        policy: Policy,
        config: TrainConfig,
        max_length: int | None,
    ) -> None:
        self._model, self._family, self._encoder, self._policy = model, family, encoder, policy
        self._config, self._max_length = config, max_length

    def prepared(self, pairs: Sequence[TrainingPair]) -> tuple[list[Prepared], list[Dropped]]:
        """The pairs as tokens, with the reference's log-probabilities under the model as it is now (none for
        loss sft, which needs none); those that cannot be trained on, with reasons: unreadable_image,
        image_not_shown (to this processor), too_long, same_answer.

        Images are loaded and preprocessed ahead, in threads.
        """
        images: dict[str, list[tuple[int, TrainingPair]]] = {}
        for i, pair in enumerate(pairs):
            images.setdefault(pair.image, []).append((i, pair))
        kept: dict[int, Prepared] = {}
        dropped: dict[int, Dropped] = {}
        with Ahead(self._encoded, images.values(), THREADS, AHEAD) as encoded:
            while together := list(itertools.islice(encoded, TOGETHER)):
                found = {i: result for one in together for i, result in one}
                dropped |= {i: result for i, result in found.items() if isinstance(result, Dropped)}
                fine = {i: result for i, result in found.items() if isinstance(result, Encoded)}
                kept |= zip(fine, self.reference(list(fine.values())), strict=True)
        return [kept[i] for i in sorted(kept)], [dropped[i] for i in sorted(dropped)]

    def _encoded(self, pairs: Sequence[tuple[int, TrainingPair]]) -> list[tuple[int, Encoded | Dropped]]:
        return [(i, self.encode(pair)) for i, pair in pairs]

    def encode(self, pair: TrainingPair) -> Encoded | Dropped:
        """The pair as tokens, or why it cannot be trained on."""
        try:
            encoded = self._encoder.encode(pair)
        except StaleRunError:
            raise
        except (DataError, OSError) as e:
            return Dropped(pair.pair_id, "unreadable_image", str(e))
        except ValueError as e:
            return Dropped(pair.pair_id, "image_not_shown", str(e))
        if self._max_length is not None and encoded.longest > self._max_length:
            detail = (
                f"{encoded.longest} tokens, expected at most {self._max_length} (prompt "
                f"{len(encoded.prompt)})"
            )
            return Dropped(pair.pair_id, "too_long", detail)
        if np.array_equal(encoded.chosen.ids, encoded.rejected.ids):
            return Dropped(pair.pair_id, "same_answer", "chosen and rejected are the same tokens")
        return encoded

    @torch.no_grad()
    def reference(self, pairs: Sequence[Encoded]) -> list[Prepared]:
        """Log-probabilities of all answers under the model as it is now, in the packed form."""
        if self._config.loss == "sft":
            return [Prepared(pair, np.zeros(0), np.zeros(0)) for pair in pairs]
        share, budget = self._config.share, self._config.tokens
        found: list[dict[bool, Floats]] = [{} for _ in pairs]
        for units in batches_of(units_of(pairs, self._family, share, budget), budget):
            answers = [a for unit in units for a in unit.answers]
            for (i, chosen), values in zip(answers, self._policy.log_probs(self._model, units), strict=True):
                found[i][chosen] = values.double().cpu().numpy()
        return [Prepared(pair, f[True], f[False]) for pair, f in zip(pairs, found, strict=True)]


def prepare(
    pairs: Sequence[TrainingPair],
    folder: Path,
    work: Callable[[Sequence[TrainingPair]], tuple[list[Prepared], list[Dropped]]],
    progress: Progress,
    rank: int = 0,
    processes: int = 1,
    wait: Callable[[], object] = lambda: None,
) -> tuple[list[Prepared], list[Dropped]]:
    """All pairs, prepared: shards that have no file are worked on (shard i by process i mod `processes`),
    then all are read.
    """
    shards = [pairs[at : at + SHARD] for at in range(0, len(pairs), SHARD)]
    paths = [folder / f"part-{i:05d}.npz" for i in range(len(shards))]
    done = [p.exists() for p in paths]
    wait()
    progress.start(
        "train: reference", len(pairs), sum(len(s) for s, d in zip(shards, done, strict=True) if d)
    )
    for i, (shard, path) in enumerate(zip(shards, paths, strict=True)):
        if not done[i] and i % processes == rank:
            _save(path, *work(shard))
            progress.advance(len(shard))
    wait()
    progress.end()
    kept: list[Prepared] = []
    dropped: list[Dropped] = []
    for path in paths:
        rows, lost = _load(path)
        kept += rows
        dropped += lost
    return kept, dropped
