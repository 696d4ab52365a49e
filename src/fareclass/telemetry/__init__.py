"""What happened, told to operators: metrics and traces (R42), and the log (R51)."""
