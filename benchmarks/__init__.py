"""Speed ratios against peers, measured in one run after equality was checked."""
