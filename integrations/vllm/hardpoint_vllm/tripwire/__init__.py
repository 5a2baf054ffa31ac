"""A raw `model.load_weights` into weights that were already packed for a kernel raises instead of corrupting them."""
