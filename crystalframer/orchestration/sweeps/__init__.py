"""A sweep: from its file to its recorded trials."""
