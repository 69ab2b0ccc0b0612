"""Verification of estimates: their exact mean and variance, by enumeration or quadrature."""
