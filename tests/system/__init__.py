"""Tests of real processes over real TLS."""
