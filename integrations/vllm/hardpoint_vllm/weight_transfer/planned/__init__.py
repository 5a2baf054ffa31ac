"""Updates by a plan: each rank takes the slices that its own loaders took from the checkpoint, and votes on them."""
