"""Weight updates, sleep and wake in Prometheus, on vLLM's own registry: in the ``/metrics`` that is scraped already."""
