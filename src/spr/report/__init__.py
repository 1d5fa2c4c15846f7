"""The report: reads a finished run and nothing else; deleting this package breaks no stage."""
