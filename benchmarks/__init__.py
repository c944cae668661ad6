"""Benchmarks: snowgreen beside what else one could do, measured in turn on one machine."""
