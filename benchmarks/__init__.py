"""One script a claim of speed or memory; each holds a naive implementation and prints a ratio against it."""
