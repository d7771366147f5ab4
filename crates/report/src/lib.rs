//! eraser report
