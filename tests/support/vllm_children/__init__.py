"""Programs that tests start in processes of their own; each prints nothing and writes one JSON file."""
