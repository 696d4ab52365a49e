"""Who goes next, where. Pure: no clock, socket, task or lock; decisions are returned as effects."""
