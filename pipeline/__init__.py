"""How work runs: video I/O, shards, Ray, and the one training loop."""
