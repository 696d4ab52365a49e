"""The worker of `fareclass consume`: a client of the gateway that takes its requests from a queue."""
