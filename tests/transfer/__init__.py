"""A pull against sources that lie, stall and vanish, and against a store that somebody changed."""
