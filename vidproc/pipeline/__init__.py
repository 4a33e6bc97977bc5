"""The label job on Ray Data: `label.run` is the whole of it, in order."""
