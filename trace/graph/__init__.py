"""The graph of a run: who depends on whom, plates that are found, d-separation, reachability."""
