"""Estimators of finite sites that sum over neighbouring values, or over several sites at once."""
