"""Objectives: how the synthetic images are compared with the real ones, and the gradients that follow."""
