"""How the embedded checkpoints are made, from nothing: `python -m spr.scenes.recipe` (about two hours on two
cores).

    data       scenes as the arrays that the models' processors would see
    dense      the vision tower learns what is where; it starts all three models
    align      the MLLM's projected patches name their thing and its location tokens
    instruct   describing, grounding and naming with exact boxes, scenes of few things first
    refine     the same on full scenes -> mllm_tight
    loosen     loose boxes, as hurried annotators draw them -> mllm
    clip, owl  the two scorers

Every stage is defined in steps, saves its state every few minutes, and goes on where a kill left it.
Attention is the eager one: in bfloat16 on a CPU the backward pass of torch's fused kernel takes up to twice
as long.
"""
