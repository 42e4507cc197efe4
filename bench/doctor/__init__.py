"""The benchmark of the network doctor: `run` and `watching` are its programs."""
