"""Periodic geometry of one crystal: neighbours within a cutoff and the static frames.

Conventions: lattices are ROWS a, b, c in Å; a frame is a 3×3 array whose ROWS are its axes e1, e2, e3; a neighbour
vector points from the centre to the neighbour.
"""
