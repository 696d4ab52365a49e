"""May this run, and on what terms? Pure functions of the Snapshot and the request."""
