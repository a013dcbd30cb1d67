"""The preflight: what a recipe, its model and its data would do to a training run, found before it costs anything."""
