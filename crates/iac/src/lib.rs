//! A stack of files → plan → apply, destroy, drift.
