"""What a run keeps: bytes on disk, records as tables, what each part was made from, and the work that fills
it.
"""
