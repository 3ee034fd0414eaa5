//! From text to objects.
