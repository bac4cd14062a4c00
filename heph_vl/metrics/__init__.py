"""Metrics, each written from its definition and tested against a slow reference."""
