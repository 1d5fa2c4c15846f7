"""What is done to a region, as pure functions of records: no file, no torch. `spr.run` gives them their
models and their files.
"""
