"""Studies: grids of distillations and evaluations, and tuning."""
