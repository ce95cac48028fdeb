"""Can this work? What a probe set, a training configuration and a model say before a run is paid for."""
