"""The product's version; pyproject.toml reads it from here, containers have no package metadata."""

__version__ = "0.1.0"
