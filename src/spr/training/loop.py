"""The loop: transformers.Trainer, with our steps and our forward.

In: prepared pairs, the steps they make. Out: a trained adapter, figures, checkpoints. Trainer brings the
optimiser, schedule, clipping, mixed precision, DDP and FSDP, logging and checkpoints. Ours: the loss of a
step = sum over its pairs / pairs of the global step, so that neither the number of processes nor the token
budget changes what is learnt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from typing_extensions import override

from spr.errors import ConfigError, UserError, unknown_name
from spr.models.devices import accelerator
from spr.models.quantized import check_four_bit
from spr.store.progress import Progress
from spr.training.answers import gather, measure
from spr.training.config import TrainConfig
from spr.training.families import Family
from spr.training.figures import History, Line, Meter, warnings_of
from spr.training.loss import preference_loss
from spr.training.plan import Unit, batches_of, units_of
from spr.training.policy import Policy
from spr.training.prepare import Prepared


@dataclass(frozen=True, slots=True)
class Steps:
    """A batch sampler that yields this process's pairs of every optimiser step of all epochs, each with the
    size of the global step. A process gets neighbours, so that pairs of one image stay together.

    A process that a small last step leaves idle gets one pair with size 0: it takes part, and counts nothing.
    """

    steps: Sequence[Sequence[int]]
    rank: int
    processes: int

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            yield [(i, len(step)) for i in self._own(step)] or [(step[0], 0)]

    def _own(self, step: Sequence[int]) -> Sequence[int]:
        begin, end = (len(step) * k // self.processes for k in (self.rank, self.rank + 1))
        return step[begin:end]

    def next(self, done: int) -> Sequence[int]:
        """This process's pairs of the step after the one that follows `done` steps."""
        return self._own(self.steps[done + 1]) if done + 1 < len(self.steps) else ()


class _Identity:
    """A data set whose items are what the sampler says: (pair, pairs of the global step)."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, int]:
        return item


@dataclass(frozen=True, slots=True)
class _Pass:
    """A forward pass: its units, the pairs of the global step (0: it counts nothing), and how often the tower
    runs in it.
    """

    units: Sequence[Unit]
    total: int
    encodes: int


class Report(TrainerCallback):
    """Moves the progress bar."""

    def __init__(self, progress: Progress, steps: Sequence[Sequence[int]]) -> None:
        self._progress, self._steps = progress, steps

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        done = sum(len(s) for s in self._steps[: state.global_step])
        self._progress.start("train", sum(len(s) for s in self._steps), done)

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._progress.advance(len(self._steps[state.global_step - 1]))


class PairTrainer(Trainer):
    """transformers.Trainer whose batch is this process's share of an optimiser step, in packed forward
    passes.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        pairs: Sequence[Prepared],
        steps: Steps,
        policy: Policy,
        family: Family,
        config: TrainConfig,
        held: Sequence[Prepared] = (),
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=_Identity(len(pairs)),
            eval_dataset=_Identity(len(held)) if held else None,
        )
        self.remove_callback(PrinterCallback)
        self._pairs, self._steps, self._policy, self._family = pairs, steps, policy, family
        self._config, self._held, self._tell = config, held, tell
        self.meter = Meter()
        self.history: History | None = None
        self.times: History | None = None
        self.held_out: History | None = None
        self.evaluated_at: int | None = None  # the step after which the held-out pairs were last measured
        self.told = set[str]()  # kinds of warnings

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Steps in their fixed order; already this process's share, so accelerate must not share them out
        again.
        """
        data, steps = cast(Any, self.train_dataset), cast(Any, self._steps)  # not typed as a Sampler
        return DataLoader(data, batch_sampler=steps, collate_fn=_collate)

    @override
    def floating_point_ops(self, inputs: Any) -> int:  # for a figure that nobody reads
        return 0

    @override
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # a pickle with paths in it, which nothing reads; the card has the configuration
        Path(output_dir or str(self.args.output_dir), "training_args.bin").unlink(missing_ok=True)

    def training_step(self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One optimiser step's forward and backward passes; gradients are synchronised in the last one."""
        model.train()
        pairs = [self._pairs[i] for i in inputs["pairs"]]
        self._policy.images.expect(self._pairs[i].pair for i in self._steps.next(self.state.global_step))
        passes = self._passes(pairs, inputs["total"])
        total = torch.zeros((), device=self.args.device)
        for number, one in enumerate(passes):
            last = number == len(passes) - 1
            # DeepSpeed takes a step in every backward that is not told otherwise
            self.accelerator.gradient_state._set_sync_gradients(last)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                loss = self._loss(model, one, pairs, self.meter) * (1.0 / one.total if one.total else 0.0)
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total = total + loss.detach()
        reduced: Tensor = self.accelerator.reduce(total)
        return reduced

    @override
    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Loss, reward margin and accuracy of the pairs that are held out, means over all processes."""
        share = _collate(next(iter(replace(self._steps, steps=[range(len(self._held))]))))
        pairs, meter, model = [self._held[i] for i in share["pairs"]], Meter(), self.model_wrapped
        model.eval()
        with torch.no_grad():
            for one in self._passes(pairs, share["total"]):
                self._loss(model, one, pairs, meter)
        line, self.evaluated_at = self._line(meter), self.state.global_step
        found = {name: line[name] for name in ("loss", "margin", "accuracy", "pairs")}
        if self.held_out is not None:
            self.held_out.write({"step": self.state.global_step, **found})
        metrics = {f"eval_{name}": float(value) for name, value in found.items() if value is not None}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _passes(self, pairs: Sequence[Prepared], total: int) -> list[_Pass]:
        """The forward passes over some pairs of this process."""
        budget, preference = self._config.tokens, self._config.loss != "sft"
        units = units_of(
            [p.pair for p in pairs], self._family, self._config.share, budget, rejected=preference
        )
        passes = [
            _Pass(batch, total, self._policy.images.missing(batch)) for batch in batches_of(units, budget)
        ]
        return self._agreed(passes, _Pass([min(units, key=lambda unit: unit.size)], 0, 0))

    def _agreed(self, passes: list[_Pass], idle: _Pass) -> list[_Pass]:
        """The passes of this process, and idle ones where another process has more of them: a forward of
        sharded weights waits for all processes, and so does each run of a sharded tower inside it.
        """
        if self.accelerator.num_processes == 1:
            return passes
        count = self._most([len(passes)])[0]
        passes = [*passes, *[idle] * (count - len(passes))]
        if not self._sharded:
            return passes
        encodes = self._most([one.encodes for one in passes])
        return [replace(one, encodes=most) for one, most in zip(passes, encodes, strict=True)]

    def _most(self, counts: Sequence[int]) -> list[int]:
        """The largest of each count over all processes."""
        found = torch.tensor(counts, device=self.args.device)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return [int(n) for n in found.tolist()]

    @property
    def _sharded(self) -> bool:
        """Whether a process has a part of the weights only."""
        return self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)

    def _loss(self, model: Any, one: _Pass, pairs: Sequence[Prepared], meter: Meter) -> Tensor:
        """Sum over the pairs of a forward pass, which the meter takes too."""
        c, units = self._config, one.units
        answers = gather(self._policy.log_probs(model, units, encodes=one.encodes), units, pairs)
        loss = preference_loss(
            c.loss,
            answers.ratios,
            answers.chosen,
            answers.lengths,
            beta=c.beta,
            offset=c.margin_scale * answers.margins,
            smoothing=c.label_smoothing,
            sft_weight=c.sft_weight,
        )
        if one.total:
            meter.add(measure(loss.detach(), answers, c, units))
        return loss.sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add our figures to what Trainer logs, and write the history."""
        if "loss" in logs and "learning_rate" in logs:
            line = self._line(self.meter)
            rest = {
                "step": self.state.global_step,
                "lr": logs["learning_rate"],
                "grad_norm": float(logs.get("grad_norm", 0.0)),
            }
            if self.history is not None:
                self.history.write({**rest, **line})
                for kind, text in warnings_of(self.history.lines, self._config).items():
                    if kind not in self.told:
                        self._tell(f"warning: step {self.state.global_step}: {text}")
                        self.told.add(kind)
            if self.times is not None:
                self.times.write({"step": self.state.global_step, **self.meter.speed(line)})
            logs = {**logs, **{k: v for k, v in line.items() if v is not None and k != "loss"}}
        super().log(logs, start_time)

    def _line(self, meter: Meter) -> Line:
        """What a meter has seen, in all processes."""
        total = meter.total
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total.to(self.args.device))
        return meter.line(total.cpu(), self._config.loss != "sft")


def _collate(items: Sequence[tuple[int, int]]) -> dict[str, Any]:
    return {"pairs": [i for i, _ in items], "total": items[0][1]}


# What is never taken from `train.trainer`, and where it is decided.
OWNED: Mapping[str, str] = {
    "output_dir": "run",
    "per_device_train_batch_size": "train.batch and train.tokens",
    "per_device_eval_batch_size": "train.tokens",
    "gradient_accumulation_steps": "train.batch and train.tokens",
    "num_train_epochs": "train.epochs",
    "max_steps": "train.epochs",
    "seed": "train.seed",
    "bf16": "train.autocast, or train.dtype for the weights",
    "fp16": "train.autocast, or train.dtype for the weights",
    "use_cpu": "train.device",
    "remove_unused_columns": "the pairs",
}
PRECISION = "ACCELERATE_MIXED_PRECISION"  # as accelerate launch says it


def check_arguments(config: TrainConfig) -> None:
    """Raise ConfigError for what cannot be in `train.trainer`, and for a precision of the launch in which
    the reference is not computed.
    """
    known = [field.name for field in dataclasses.fields(TrainingArguments)]
    for name in config.trainer:
        if name in OWNED:
            raise ConfigError(
                f"train.trainer.{name}: found a setting that follows from {OWNED[name]}, expected it there"
            )
        if name not in known:
            raise ConfigError("train.trainer: " + unknown_name("setting", name, known))
    if config.trainer.get("eval_strategy", "no") != "no" and not config.held_out:
        raise ConfigError(
            "train.trainer.eval_strategy: found no pairs to evaluate on, expected train.held_out, the share "
            "of images that are not trained on"
        )
    _check_reports(config.trainer.get("report_to", "none"))
    precision = os.environ.get(PRECISION, "no")
    sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true" or config.trainer.get("fsdp")
    if config.quantize != "none":
        check_four_bit()
    if sharded or os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" or config.trainer.get("deepspeed"):
        _check_sharded(config)
    if precision != "no" or (config.autocast and sharded):
        found = f"{PRECISION}={precision}" if precision != "no" else "train.autocast with sharded weights"
        raise ConfigError(
            f"{found}: the reference would be computed in another precision than the training; expected "
            "mixed_precision: 'no' in accelerate's file, and train.dtype: bfloat16 (an adapter stays float32)"
        )


def _check_sharded(config: TrainConfig) -> None:
    """Raise ConfigError for what needs whole weights in each process."""
    if config.quantize != "none":
        raise ConfigError(
            f"train.quantize: found {config.quantize} with sharded weights, expected none, or DDP: a process "
            "holds all quantised weights"
        )
    if config.trains_images:
        raise ConfigError(
            f"train.lora_parts: found {', '.join(config.lora_parts)} with sharded weights, expected language "
            "alone, or DDP: backward passes through the tower would differ between the processes"
        )


def _check_reports(to: Any) -> None:
    """Raise ConfigError for a place to report to that is not known, or not installed."""
    known = set(INTEGRATION_TO_CALLBACK)
    for name in [to] if isinstance(to, str) else to:
        if name not in {"all", "none", *known}:
            raise ConfigError("train.trainer.report_to: " + unknown_name("place", str(name), sorted(known)))
        if name in known - set(get_available_reporting_integrations()):  # type: ignore[no-untyped-call]
            raise ConfigError(
                f"train.trainer.report_to: found {name!r}, whose package is not installed, expected it "
                f"(pip install {name})"
            )


def arguments(config: TrainConfig, folder: Path, steps: int, seed: int) -> TrainingArguments:
    """Trainer's arguments: ours, then the user's own (`train.trainer`)."""
    ours: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 1,
        "num_train_epochs": 1,  # the sampler lists the steps of all epochs
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(config.warmup * steps),
        "max_grad_norm": config.max_grad_norm,
        "logging_strategy": "steps",
        "logging_steps": config.log_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "save_total_limit": 1,
        "eval_strategy": "steps" if config.held_out else "no",
        "eval_steps": config.save_steps,
        "seed": seed,
        "bf16": config.autocast,
        # said, where there is nothing else: else processes of one launch would not find each other
        "use_cpu": config.device == "cpu" or accelerator() is None,
        "remove_unused_columns": False,
        # a tower has layers behind the one whose output is taken
        "ddp_find_unused_parameters": "tower" in config.lora_parts,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "report_to": "none",
    }
    check_arguments(config)
    try:
        return TrainingArguments(**{**ours, **config.trainer})
    except (TypeError, ValueError) as e:
        raise UserError(
            f"train.trainer: transformers.TrainingArguments refuses it ({str(e).splitlines()[0]})"
        ) from None


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are removed. Trainer writes
    `trainer_state.json` last.
    """
    complete = []
    for path in folder.glob("checkpoint-*"):
        try:
            complete.append(
                (
                    int(json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]),
                    path,
                )
            )
        except (OSError, ValueError, KeyError):
            shutil.rmtree(path, ignore_errors=True)
    return max(complete)[1] if complete else None
