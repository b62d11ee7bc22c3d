"""What outlives a process: the database, the blobs and the queue's sending side."""
