"""Loading: what passed the gate, hashed, through the real runtimes."""
