"""The web console, in a process of its own: a client of the control plane like any other."""
