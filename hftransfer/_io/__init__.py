"""What touches the disk, memory and time: buffers, partial files, locks, limiters, retries."""
