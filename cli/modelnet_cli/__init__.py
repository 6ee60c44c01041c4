"""The `modelnet` command."""
