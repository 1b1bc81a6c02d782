"""The transfer engine: plans, schedules, hashes, verifies and retries. It knows no store."""
