"""Pure examinations of a model's answers: what they say about frames, sizes and notations. The command is
`spr.commands.doctor`.
"""
