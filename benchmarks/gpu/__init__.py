"""Everything that has to be seen on an NVIDIA GPU, in one command: `python -m benchmarks.gpu`."""
