"""A worker container's health: exits 0 when the database and the broker answer from inside it."""

from store.database import Database
from store.queue import Queue
from store.settings import store_settings

settings = store_settings()
Database.from_settings(settings).ping()
Queue(settings.broker_url).ping()
