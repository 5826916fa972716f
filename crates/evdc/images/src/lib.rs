//! OCI images on a node: pull, load, unpack safely, layers on overlayfs.
