"""Objectives beyond the evidence lower bound: functions of the log-weights of several draws."""
