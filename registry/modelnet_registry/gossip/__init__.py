"""Gossip between nodes: heads, revocations and evidence travel; logs and models are pulled.

messages   what is said, and its bytes: every one is bounded, and has one encoding
view       which peers a node knows, and whom it talks to next
machine    what a node does with what it hears; no sockets, no clock, no randomness of its own
service    the same machine with sockets and timers, in a node
judge      what is true: the publishers' logs in the store decide, nobody's word does
"""
