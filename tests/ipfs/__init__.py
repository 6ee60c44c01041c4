"""Kubo, Helia and pinning services: what modelnet does with them, and they with it."""
