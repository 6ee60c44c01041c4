"""The operating half of a publisher's log: who may write it, in which order, and what a crash means."""
