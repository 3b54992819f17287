"""Arithmetic: functions of arrays that know nothing of models, data and recipes."""
