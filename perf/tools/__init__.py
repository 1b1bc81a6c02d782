"""The programs that are measured: how each is found and started."""
