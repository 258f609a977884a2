"""Engines: built, looked into, kept by their content."""
