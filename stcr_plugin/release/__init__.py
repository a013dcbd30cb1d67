"""A finished stage -> a folder that others can load, serve, judge with and read about."""
