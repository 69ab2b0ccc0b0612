"""Programs: the statements that name sites, plates and modules, and their checks."""
