"""The words of the system: values that cross stages. No I/O, no rules about order."""
