"""What a run will take: memory, disk, time; before it is started."""
