"""Measurements and studies: costs, ablations, the benchmark harness and the baselines it compares with."""
