//! Server-rendered pages with live updates.
