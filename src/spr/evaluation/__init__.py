"""Benchmarks with exact protocols, all on the same three steps: benchmark file -> predictions (through a
Describer) -> metrics.

readers/    one published file form each -> `Item`s
protocols/  one kind of question each: its prompt, how an answer is judged, its metrics
stage.py    questions to models in resumable shards; predictions.parquet, metrics.json, comparison.json
metrics.py  the formulas, on plain arrays
"""
