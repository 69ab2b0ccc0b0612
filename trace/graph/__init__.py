"""The graph of a run: edges, plates that are found, d-separation, reachability."""
