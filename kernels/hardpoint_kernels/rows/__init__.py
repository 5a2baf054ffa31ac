"""Rows of a token buffer: zero those past the last token, and find those that hold NaN or infinity."""
