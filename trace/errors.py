"""Errors of sites: one family, each naming the site, its line, what was expected and what came."""


class SiteError(ValueError):
    """Something is wrong with a site of a program."""
