"""Publish AI models once, pull them from anyone, load only what the author signed."""
