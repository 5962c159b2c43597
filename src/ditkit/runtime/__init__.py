"""The machine: devices, threads, memory, processes that train together."""
