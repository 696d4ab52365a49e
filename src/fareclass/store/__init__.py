"""Durable state: the only SQL of the program. SQLite by default, PostgreSQL by URL, one set of queries."""
