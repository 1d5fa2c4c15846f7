"""What drives the pipeline on the embedded world: the demo, the table of results, its verdicts, tuning."""
