//! What an image from outside may cost before it is refused.

use atoll_ids::ByteCount;

/// Limits on everything that comes with an image. The defaults leave room for the largest images in common use and little more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest manifest, index or configuration. Registries commonly refuse manifests above 4 MiB.
    pub manifest_bytes_max: ByteCount,
    /// Most layers of one image. overlayfs takes 500; 127 is what Docker has always allowed.
    pub layers_max: usize,
    /// Largest blob as it is sent.
    pub blob_bytes_max: ByteCount,
    /// Most bytes that the files of one layer may have in total once unpacked: what a decompression bomb meets.
    pub layer_bytes_max: ByteCount,
    /// Most entries in one layer: what an archive of empty files meets.
    pub layer_entries_max: u64,
    /// Longest path and link target; the kernel's own PATH_MAX.
    pub path_bytes_max: usize,
    /// Largest extended header of one entry (long names, attributes).
    pub header_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes_max: ByteCount(4 << 20),
            layers_max: 127,
            blob_bytes_max: ByteCount(16 << 30),
            layer_bytes_max: ByteCount(32 << 30),
            layer_entries_max: 2_000_000,
            path_bytes_max: 4096,
            header_bytes_max: 256 << 10,
        }
    }
}
