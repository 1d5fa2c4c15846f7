"""The embedded world: scenes composed from real art with real names, three small checkpoints trained on them,
and the recipe that trained them.

Nothing outside this package knows that the world is synthetic: scenes are written in the files of real data
sets (images, COCO JSON, MDETR-style referring expressions) and read back through the same readers.
Art: OpenMoji (https://openmoji.org), CC BY-SA 4.0; see NOTICE.
"""
