"""Numbers about a result: channels that tell domains, probes, the parts of a gradient."""
