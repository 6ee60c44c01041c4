"""The HTTP doors of a node: a bounded threaded server, the trustless gateway and the doors beside it."""
