"""``hardpoint demo``: the main job on this machine, with real models, and checks that could fail."""
