"""What a node or a log operator runs."""
