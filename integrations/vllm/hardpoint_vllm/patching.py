"""The one way in which this integration replaces a function of vLLM."""

from hardpoint.patching import is_wrapped, unwrap, wrap

__all__ = ["is_wrapped", "unwrap", "wrap"]
