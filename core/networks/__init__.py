"""Bytes in, a teacher out: safe loading, the registry of architectures, inspection, the graph."""
