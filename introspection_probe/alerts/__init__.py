"""The conditions worth waking somebody for, over scored rounds; and what is done about them."""

from introspection_probe.alerts.actions import Actions, OnAlert, choose_actions
from introspection_probe.alerts.conditions import CONDITIONS, AlertConfig, Condition, round_stale
from introspection_probe.alerts.monitor import Judgement, Monitor, TaskRound, evaluate
from introspection_probe.alerts.run_monitor import RunMonitor

__all__ = [
    "CONDITIONS",
    "Actions",
    "AlertConfig",
    "Condition",
    "Judgement",
    "Monitor",
    "OnAlert",
    "RunMonitor",
    "TaskRound",
    "choose_actions",
    "evaluate",
    "round_stale",
]
