"""Calls by subject; thin: they name the wire shapes and hand over to `api.services`."""
