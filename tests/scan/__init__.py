"""The content check: what files are whatever they are called, and what the gate says about them."""
