"""Loading through torch, transformers and diffusers, in an environment of its own (`make test-torch`)."""
