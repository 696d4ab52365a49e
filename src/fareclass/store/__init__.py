"""Durable state: the only SQL of the program. SQLite by default, PostgreSQL by URL, one set of queries."""


class StoreError(Exception):
    """The database, or the master key beside it, can't be used as it is; the message says what to do."""
