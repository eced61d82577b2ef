"""Structure files of every dialect become crystals."""
