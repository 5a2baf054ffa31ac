"""Beside other people's plugins and trainers: who has the platform, what is left to them, and repairs that retire."""

RAW_RELOAD = "HARDPOINT_RAW_RELOAD"  # refuse (default) or session: see `raw_reload`
