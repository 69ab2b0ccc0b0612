"""The study: bias, variance, evaluations and time of estimators on one's own program."""
