"""Fast blocks of a DiT on a CPU: kernels in C between torch's matrix products."""
