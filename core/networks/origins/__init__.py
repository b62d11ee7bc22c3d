"""Where the registry's architectures come from: one module an origin, each an `Origin` (base.py)."""
