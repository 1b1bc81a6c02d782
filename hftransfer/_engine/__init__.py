"""The engine: plans, schedules, hashes, verifies and retries. Start reading at `transfer`."""
