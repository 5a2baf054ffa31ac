"""Weight updates in Prometheus, on vLLM's own registry: they are in the ``/metrics`` that is scraped already."""
