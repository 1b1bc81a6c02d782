"""A soak test: random transfers under random faults, kills and outages, for as long as is asked.

Several lanes run at the same time, each one episode after the other. An episode is one transfer
(`plan`), through relays that cut, stall, slow down and damage connections and refuse new ones
(`relay`), between a Hub, an S3 server and the disk (`testbed`). Half of the lanes are processes
that live as long as the soak and report their memory, descriptors and threads (`worker`); the
others start a process for each episode and kill it at random (`lanes`). Every result is compared
with its source, and nothing may be left behind (`summary`). A seed makes the same episodes again.
"""
