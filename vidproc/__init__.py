"""vidproc turns a video archive into tables: decode, annotate with residual networks, commit exactly once."""

__version__ = "0.1.0"
