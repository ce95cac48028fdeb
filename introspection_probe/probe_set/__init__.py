"""The probe set: a versioned folder of counterfactual questions with M0's behaviour and explanations."""

from introspection_probe.probe_set.probe_set import EXAMPLES, SHARD, ProbeSet, check_share, split_groups

__all__ = ["EXAMPLES", "SHARD", "ProbeSet", "check_share", "split_groups"]
