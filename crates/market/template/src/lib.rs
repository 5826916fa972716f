//! Go's text/template with Sprig (pure).
