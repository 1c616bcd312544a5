"""Command lines: thin mains over bce_jax.training."""
