"""Residual networks and their weights."""
