"""Numbers about a result: domain-sensitive channels, probes, the parts of a gradient, scores."""
