"""Once per data set: from downloads or a user's files to a prepared store."""
