"""Runs jobs: takes them from the queue, supervises one child process for each, writes what came out."""
