"""The store and the transfer: round trips, crashes, reuse, upkeep."""
