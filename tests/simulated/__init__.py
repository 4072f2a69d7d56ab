"""Simulated hardware for the tests."""
