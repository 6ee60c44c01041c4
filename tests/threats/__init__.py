"""The threat table: each row that can be shown by a test, by its number."""
