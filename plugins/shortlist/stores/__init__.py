"""The world outside: files, PostgreSQL, model versions, Telegram."""
