"""Make tokens: the engines behind the gateway, their health, and what probes found out about them."""
