"""Beside other people's plugins and trainers: who has the platform, what is left to them, and repairs that retire."""
