"""From the files people have to one index: readers, checks, images, and queries."""
