"""What is mixed into the host's gradient: the explanation loss, the KL term, the cached reference. Needs torch."""

from introspection_probe.training.drawing import Drawing, Share
from introspection_probe.training.losses import MixExample, explanation_nll, reference_kl
from introspection_probe.training.mixer import Mixer, MixLosses
from introspection_probe.training.reference import Reference, ReferenceRow, write_reference

__all__ = [
    "Drawing",
    "MixExample",
    "MixLosses",
    "Mixer",
    "Reference",
    "ReferenceRow",
    "Share",
    "explanation_nll",
    "reference_kl",
    "write_reference",
]
