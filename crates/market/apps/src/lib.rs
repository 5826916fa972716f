//! The built-in catalogue and the small servers in it.
