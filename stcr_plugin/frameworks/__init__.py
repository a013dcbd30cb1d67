"""The training frameworks that the plugin lives in."""
