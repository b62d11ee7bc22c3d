"""The wire shapes by subject."""
