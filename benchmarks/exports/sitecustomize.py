"""Python imports this by itself where it is on the path: it writes down every batch that a trainer of
transformers is about to train on, as it is, into $SPR_BATCHES. Nothing else changes.
"""

import os

if os.environ.get("SPR_BATCHES"):
    import torch
    from transformers import Trainer

    _step = Trainer.training_step
    _seen: list[dict[str, torch.Tensor]] = []

    def _training_step(self, model, inputs, *args, **kwargs):  # type: ignore[no-untyped-def]
        _seen.append({name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)})
        torch.save(_seen, os.path.join(os.environ["SPR_BATCHES"], "batches.pt"))
        return _step(self, model, inputs, *args, **kwargs)

    Trainer.training_step = _training_step  # type: ignore[method-assign]
