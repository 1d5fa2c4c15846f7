"""One step with sharded weights against the same step without, in two processes: `python -m
tests.unit.training.sharded MODEL`.

Prints the largest differences of a log-probability and of a gradient.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from spr.models.loading import load_mllm
from spr.training.adapter import attach
from spr.training.encode import Encoder
from spr.training.families import family_of
from spr.training.plan import units_of
from spr.training.policy import Images, Policy
from tests.unit.training.data import FAST, load_image, made_pairs


def step(model: Any, policy: Policy, units: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    values = torch.cat(policy.log_probs(model, units))
    values.sum().backward()
    found = {}
    for name, p in model.named_parameters():
        if p.grad is not None:
            found[name] = (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).clone()
            p.grad = None
    return values.detach(), found


def main() -> None:
    torch.set_num_threads(1)
    base, processor = load_mllm(sys.argv[1])
    torch.manual_seed(0)
    model = attach(base, FAST)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)  # a fresh B is zero, which would hide A
    encoder, family = Encoder(base, processor, load_image), family_of(base)
    policy = Policy(base, family, encoder, Images(base, encoder, 64))
    units = units_of([encoder.encode(p) for p in made_pairs(4)], family, "tree", 10_000)
    values, gradients = step(model, policy, units)
    mesh = init_device_mesh("cpu", (2,))
    for layer in base.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    sharded_values, sharded = step(model, policy, units)
    assert gradients.keys() == sharded.keys()
    assert any(float(g.abs().max()) > 1e-3 for g in gradients.values())
    worst = max(float((gradients[n] - sharded[n]).abs().max()) for n in gradients)
    print(float((values - sharded_values).abs().max()), worst)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
