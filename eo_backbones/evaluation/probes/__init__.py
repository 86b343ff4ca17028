"""The probes that are fitted on frozen features, and the protocols that name them."""
