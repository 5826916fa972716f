//! A file system whose data and metadata live in zstor; its FUSE driver.
