"""Expert weights that are packed again when new weights arrive."""
