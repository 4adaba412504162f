"""Runs of training or of the benchmark, held against each other."""
