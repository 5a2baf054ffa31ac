"""Data-parallel padding with a fault, one idea per file, and padding that is different and right."""
