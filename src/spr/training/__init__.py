"""Preference training of image-text models that computes what a pair shares only once (method 2.6).

config.py    what can be set, with the source of every default (no torch)
loss.py      pure functions on log-probabilities
packing.py   the prefix tree of some sequences as one row: ids, positions, mask (numpy)
encode.py    a training pair as tokens, exactly as the model is asked
families.py  which layout a model family takes, its positions and its image features
policy.py    log-probabilities of packed rows
prepare.py   tokens and reference log-probabilities of all pairs, cached under a digest
trainer.py   transformers.Trainer around it: `train`
merge.py     adapter + base -> plain weights
"""
