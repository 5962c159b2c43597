"""Fast blocks of a DiT on a CPU, and the update of its weights: kernels in C between torch's matrix products."""
