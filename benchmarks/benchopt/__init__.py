"""Files for benchopt: solvers of anyoptim, and what they run on where its own benchmarks are not at hand."""
