"""Trainings in processes of their own: run as `python -m tests.unit.training.worker MODEL OUT CHANGES
[MOMENTS]`.

CHANGES is JSON of TrainConfig fields. MOMENTS is JSON of seconds: the training is forked off and killed
(SIGKILL) at each of them, going on every time where the last one stood, and then runs to its end. Prints how
many of the kills hit a running training.
With DIES_IN=N the process kills itself in step N. With ACCELERATE_USE_FSDP=true accelerate shards the weights
(FSDP 2), which it does on accelerators only: here its state is told that the CPUs are some.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from spr.training.config import TrainConfig
from spr.training.loop import PairTrainer
from spr.training.trainer import train
from tests.unit.training.data import FAST, load_image, made_pairs

own_init, own_step = AcceleratorState.__init__, PairTrainer.training_step


def _told_of_accelerators(self: AcceleratorState, *arguments: Any, **named: Any) -> None:
    if PartialState._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    own_init(self, *arguments, **named)
    assert self.distributed_type == DistributedType.FSDP, self.distributed_type


def _dying(self: PairTrainer, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
    if self.state.global_step + 1 == int(os.environ["DIES_IN"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return own_step(self, model, inputs, num_items_in_batch)


def work(model: str, out: str, config: TrainConfig) -> None:
    train(made_pairs(14), model, out, config, load_image)


def killed_at(seconds: float, model: str, out: str, config: TrainConfig) -> bool:
    """Fork, train, kill. False when the training was done before."""
    child = os.fork()
    if child == 0:
        work(model, out, config)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] != 0


def main() -> None:
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        AcceleratorState.__init__ = _told_of_accelerators  # type: ignore[method-assign]
    if "DIES_IN" in os.environ:
        PairTrainer.training_step = _dying  # type: ignore[method-assign]
    model, out, changes = sys.argv[1:4]
    config = replace(FAST, **json.loads(changes))
    hits = (
        sum(killed_at(seconds, model, out, config) for seconds in json.loads(sys.argv[4]))
        if len(sys.argv) > 4
        else 0
    )
    work(model, out, config)
    print(hits)


if __name__ == "__main__":
    main()
