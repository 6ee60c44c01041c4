"""Where chunks live: the local store and the sources that chunks come from."""
