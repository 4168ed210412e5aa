"""Measurements: the benchmark harness and the baselines it compares with."""
