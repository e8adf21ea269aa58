"""The leaderboard and the page."""
