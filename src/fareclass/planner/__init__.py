"""What to reserve, which tier for which work, and what a day would have been: drives `sched` in virtual time."""
