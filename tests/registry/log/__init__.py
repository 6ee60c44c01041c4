"""The operating half of a log: appended, crashed, copied, restored, and checked by others."""
