"""`fareclass demo`: a day of a small fleet, squeezed into minutes."""
