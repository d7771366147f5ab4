//! A tensor as it is in its file. In: what a reader of files has; out: what a fingerprint is made of. Invariant: the
//! bytes are those of the file, unconverted.

/// A tensor's name, type, shape and bytes.
pub(crate) struct InFile<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: String,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}
