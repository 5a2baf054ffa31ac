"""Which paths of a vLLM server are control: what can change, stop, or look into an engine."""

from __future__ import annotations

# Open to everybody: liveness, and what a load balancer or Prometheus reads. Everything that is neither here nor guarded
# by vLLM's own API key is control, so that an endpoint of a vLLM to come is guarded until somebody has looked at it.
OPEN = frozenset(
    {
        "/health",
        "/ping",
        "/version",
        "/load",
        "/metrics",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
    }
)
# vLLM's API key looks at these (GUARDED_PREFIX of its AuthenticationMiddleware).
SERVING = ("/v1", "/v2", "/inference", "/cohere")
# Control below a serving prefix: loads code-like state into an engine, or reads files of its machine.
CONTROL_BELOW = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
# Inference outside the serving prefixes, as vLLM 0.32 has it. They cost what /v1 costs and change nothing.
INFERENCE = frozenset(
    {
        "/classify",
        "/detokenize",
        "/embed",
        "/generate",
        "/invocations",
        "/pooling",
        "/rerank",
        "/score",
        "/tokenize",
        "/tokenizer_info",
    }
)


def is_control(path: str) -> bool:
    """Whether `path` (without the root path) is a control endpoint. Unknown paths are."""
    plain = "/" + path.strip("/")
    if plain in CONTROL_BELOW:
        return True
    if plain in OPEN or plain in INFERENCE or plain == "/":
        return False
    return not any(plain == prefix or plain.startswith(f"{prefix}/") for prefix in SERVING)
