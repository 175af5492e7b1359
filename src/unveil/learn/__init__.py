"""Learners: functions that improve any model which keeps the contract they need."""
