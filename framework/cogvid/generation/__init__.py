"""From captions to token grids: schedules, sampling, and the models in their order."""
