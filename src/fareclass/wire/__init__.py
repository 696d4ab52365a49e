"""HTTP in and out: knows JSON and status codes, decides nothing."""
