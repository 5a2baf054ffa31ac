"""Pipeline, expert and data parallelism inside vLLM: one padding rule, ragged collectives, a rank's own experts."""
