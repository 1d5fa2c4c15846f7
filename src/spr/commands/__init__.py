"""What a command does beside a stage: previews, checks, the doctor, exports."""
