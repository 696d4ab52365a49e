"""The order of things: which stage follows which. Holds no rule of its own."""
