"""`train`: pairs -> a LoRA adapter.

In: training pairs, a checkpoint folder. Out: a folder that is a normal PEFT adapter, with `history.jsonl`
(figures per step), `README.md` (model card) and `state/` (cached reference, trainer state for resume).
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from spr.errors import DataError, UserError
from spr.models.loading import context_length, load_mllm, quiet_peft
from spr.models.memory import available_bytes
from spr.models.weights import adapter_digest, checkpoint_digest
from spr.store.identity import Origin, hold_origin
from spr.store.progress import NO_PROGRESS, Progress, counted
from spr.store.run import Run
from spr.training.adapter import attach, write_card
from spr.training.check import check_rows
from spr.training.config import TrainConfig, TrainResult
from spr.training.encode import Encoder
from spr.training.families import Family, family_of
from spr.training.features import FeatureStore
from spr.training.figures import History, read_history, warnings_of
from spr.training.loop import PairTrainer, Report, Steps, arguments, last_checkpoint
from spr.training.masks import check_attention
from spr.training.memory import look_at_memory
from spr.training.plan import is_held_out, steps_of
from spr.training.policy import Images, Policy
from spr.training.prepare import Prepared, Preparer, pairs_digest, prepare
from spr.types import Checkpoint, Dropped, TrainingPair

if TYPE_CHECKING:
    from spr.dialects import Dialect

# What of the configuration the cached reference depends on.
REFERENCE = (
    "share",
    "tokens",
    "max_length",
    "dtype",
    "quantize",
    "autocast",
    "attention",
    "coordinate_weight",
    "rejected_coordinates",
)


def train(
    pairs: Sequence[TrainingPair],
    model_folder: str | Checkpoint,
    out_folder: str,
    config: TrainConfig,
    load_image: Callable[[str], Any],
    dialect: Dialect | None = None,
    resume: bool = True,
    progress: Progress = NO_PROGRESS,
    seed: int = 0,
    adapter: str | None = None,
) -> TrainResult:
    """Train a LoRA adapter on pairs and write it to `out_folder`. `model_folder`: a folder or hub name, or a
    `Checkpoint`, whose dtype and attention give way to the configuration's. `adapter`: start from this one,
    which is then also the reference.

    Deterministic on a CPU for a given number of threads. With `resume`, a killed run goes on from its last
    checkpoint and ends in the same bytes. Raises DataError when no pair can be trained on, StaleRunError when
    the cache in `out_folder` was made from something else.
    """
    begin, out, state = time.monotonic(), Path(out_folder), Path(out_folder, "state")
    args, wait = _begun(out_folder, state, config, seed, resume)
    checkpoint = dataclasses.replace(
        Checkpoint.of(model_folder), dtype=config.dtype, attention=config.attention
    )
    check_attention(config.attention, args.device)
    with quiet_peft():
        look_at_memory(checkpoint, config, available_bytes(args.device), str(args.device), progress)
        model, processor = load_mllm(checkpoint, str(args.device), quantize=config.quantize)
        torch.manual_seed(seed)
        peft = attach(model, config, adapter)
        encoder = Encoder(
            model,
            processor,
            load_image,
            dialect,
            config.coordinate_weight,
            config.rejected_coordinates,
            checkpoint.chat_template_kwargs,
        )
        family = family_of(model, config.share)
        features = FeatureStore(
            config.feature_cache_mb, config.feature_cache_disk_mb, state / "features", progress.tell
        )
        images = Images(model, encoder, features, config.trains_images)
        with contextlib.closing(Policy(model, family, encoder, images)) as policy:
            preparer = Preparer(
                peft, family, encoder, policy, config, config.max_length or context_length(model)
            )
            if args.process_index == 0:
                origin = _origin(checkpoint, pairs, adapter, family, config, dialect)
                hold_origin(Run(str(state)), (), origin)
            wait()
            off = contextlib.nullcontext if adapter else peft.disable_adapter
            prepared, dropped = _prepared(pairs, preparer, off, state, config, args, progress, wait)
            reasons = dict(sorted(Counter(d.reason for d in dropped).items()))
            for one in prepared:
                encoder.saw(one.pair.image_path, one.pair.picture)
            kept, held = _split(prepared, config.held_out, reasons, out)
            warned = _notes(family, config, held)
            for warning in warned:
                progress.tell(f"warning: {warning}")
            encoded = [p.pair for p in kept]
            difference = check_rows(peft, policy, family, encoded, config)
            steps = steps_of(encoded, config.batch, config.epochs, seed)
            args = arguments(config, state, len(steps), seed)
            share = Steps(steps, args.process_index, args.world_size)
            trainer = PairTrainer(peft, args, kept, share, policy, family, config, held, progress.tell)
            _run(trainer, out, state, steps, progress)
            if args.process_index == 0:
                processor.save_pretrained(out)
                shutil.rmtree(state / "features", ignore_errors=True)
    history, watched = read_history(out / "history.jsonl"), read_history(out / "held_out.jsonl")
    late = warnings_of(history, config, ended=True)
    result = TrainResult(
        pairs=len(kept),
        dropped=reasons,
        steps=len(steps),
        seconds=round(time.monotonic() - begin, 1),
        layout=family.name,
        reference="starting adapter" if adapter else "base model (adapter off)",
        parameters=sum(p.numel() for p in peft.parameters() if p.requires_grad),
        images_encoded=images.store.encoded,
        figures=history[-1] if history else {},
        packed_difference=difference,
        held_out=watched[-1] if held and watched else {},
        warnings=(*warned, *late.values()),
    )
    if args.process_index == 0:
        write_card(out, checkpoint.folder, config, dataclasses.asdict(result))
    progress.end(f"{len(steps)} steps, loss {result.figures.get('loss')}")
    for text in [
        *([f"dropped: {counted(reasons)}"] if reasons else []),
        *(f"warning: {text}" for kind, text in late.items() if kind not in trainer.told),
    ]:
        progress.tell(text)
    return result


def _begun(
    out: str, state: Path, config: TrainConfig, seed: int, resume: bool
) -> tuple[TrainingArguments, Callable[[], object]]:
    """The process's place among those of the launch, and what waits for all of them. Without `resume` nothing
    of an earlier training is left.
    """
    if "://" in out:
        raise UserError(
            f"{out}: found a URL, expected a local folder (checkpoints are renamed in place); copy the "
            "adapter afterwards"
        )
    args = arguments(config, state, 1, seed)
    # DeepSpeed's stage 3 would load shards, and the reference pass is made with all weights
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    wait = torch.distributed.barrier if args.world_size > 1 else (lambda: None)
    if not resume and args.process_index == 0:
        shutil.rmtree(state, ignore_errors=True)
    wait()
    return args, wait


def _split(
    pairs: Sequence[Prepared], share: float, dropped: Mapping[str, int], out: Path
) -> tuple[list[Prepared], list[Prepared]]:
    """The pairs to train on, and those that are held out. Raises DataError where there are none of the
    former.
    """
    kept, held = list[Prepared](), list[Prepared]()
    for pair in pairs:
        (held if is_held_out(pair.pair.image_path, share) else kept).append(pair)
    if not kept:
        why = counted({**dropped, "held_out": len(held)} if held else dropped)
        raise DataError(f"{out}: no pair is left to train on ({why or 'there was none'})")
    return kept, held


def _notes(family: Family, config: TrainConfig, held: Sequence[Prepared]) -> list[str]:
    """What a person should know before the first step."""
    found = []
    if family.layout is None and config.share != "none":
        found.append(f"plain rows, nothing is shared: {family.why}")
    if config.held_out and not held:
        found.append(f"train.held_out: a share of {config.held_out:g} of the images is none of these")
    return found


def _origin(
    checkpoint: Checkpoint,
    pairs: Sequence[TrainingPair],
    adapter: str | None,
    family: Family,
    config: TrainConfig,
    dialect: Dialect | None,
) -> Origin:
    """What the cached reference, and the tokens beside it, are made from."""
    inputs = {"model": checkpoint_digest(checkpoint), "pairs": pairs_digest(pairs)}
    if adapter:
        inputs["adapter"] = adapter_digest(adapter)
    made = {"processor": checkpoint.processor, "layout": family.name, "reference": config.loss != "sft"}
    made |= {name: getattr(config, name) for name in REFERENCE}
    if dialect is not None and (config.coordinate_weight != 1.0 or config.rejected_coordinates != "all"):
        made["dialect"] = {"name": dialect.name, **dialect.options}  # it finds the coordinates
    return Origin("train", made, inputs)


def _prepared(
    pairs: Sequence[TrainingPair],
    preparer: Preparer,
    off: Callable[[], contextlib.AbstractContextManager[Any]],
    state: Path,
    config: TrainConfig,
    args: TrainingArguments,
    progress: Progress,
    wait: Callable[[], object],
) -> tuple[list[Prepared], list[Dropped]]:
    """Tokens and reference log-probabilities of all pairs, from the cache where it has them. `off`: in it the
    model is the reference.
    """

    def work(shard: Sequence[TrainingPair]) -> tuple[list[Prepared], list[Dropped]]:
        with off(), torch.autocast(args.device.type, torch.bfloat16, enabled=config.autocast):
            return preparer.prepared(shard)

    return prepare(pairs, state, work, progress, args.process_index, args.world_size, wait)


def _run(
    trainer: PairTrainer, out: Path, state: Path, steps: Sequence[Sequence[int]], progress: Progress
) -> None:
    """Train from the last checkpoint, and write the adapter."""
    checkpoint = last_checkpoint(state)
    first = trainer.args.process_index == 0
    if first:
        step = int(checkpoint.name.rsplit("-", 1)[-1]) if checkpoint else 0
        trainer.history = History(out / "history.jsonl", step)
        trainer.times = History(out / "times.jsonl", step)
        trainer.held_out = History(out / "held_out.jsonl", step) if trainer.eval_dataset else None
    trainer.add_callback(Report(progress, steps))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.eval_dataset and trainer.evaluated_at != trainer.state.global_step:
        trainer.evaluate()
    trainer.save_model(str(out))
