//! Patches of JSON objects: JSON Patch, merge patch, strategic merge, server-side apply (pure).
