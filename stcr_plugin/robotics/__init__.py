"""Progress, success and order of recordings in the files that robot-learning tools read."""
