"""A simulator of many nodes: the gossip machine of the node itself, on a simulated transport."""
