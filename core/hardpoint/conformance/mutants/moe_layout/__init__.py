"""Expert layouts with a fault, one idea per file, and layouts that are different and right."""
