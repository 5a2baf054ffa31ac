"""``HARDPOINT_PROBE`` inside vLLM: layers found by what they are, scanned by hooks, batches from the host's copies."""
