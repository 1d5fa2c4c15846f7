"""Trainings in processes of their own: run as `python -m tests.unit.training.worker MODEL OUT CHANGES
[MOMENTS]`.

CHANGES is JSON of TrainConfig fields. MOMENTS is JSON of seconds: the training is forked off and killed
(SIGKILL) at each of them, going on every time where the last one stood, and then runs to its end. Prints how
many of the kills hit a running training.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace

import torch

from spr.training.config import TrainConfig
from spr.training.trainer import train
from tests.unit.training.data import FAST, load_image, made_pairs


def work(model: str, out: str, config: TrainConfig) -> None:
    train(made_pairs(12), model, out, config, load_image)


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
