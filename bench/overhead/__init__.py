"""What the gateway costs: CPU, requests/s and delay against a bare proxy, on one core.

Four processes: a static upstream and a load generator on one core; on the other, alone, the
process under test: the bare proxy, the gateway with every stage on, or LiteLLM's proxy. Both
proxies stay up, and windows of each are measured in turn, so that a slow moment of the
machine hits both. `upstream`, `bare` and `load` can be run by themselves.
"""
