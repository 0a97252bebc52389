"""Where kernels meet a framework's derivatives: one file for each framework."""
