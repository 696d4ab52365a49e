"""What was used and what is owed: prices, the ledger, reports."""
