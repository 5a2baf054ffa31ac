"""Gated DeltaNet (GDN) layers: decode in one launch, prefill, and the references that define them."""
