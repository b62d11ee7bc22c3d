"""The HTTP API. `python -m api` serves it; `api.app:create_app` is the factory for other servers."""
