"""Kinds of training, one file each."""
