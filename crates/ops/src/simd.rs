//! Vector kernels on slices, dispatched at run time to the widest instruction set of the processor.
