//! A table as text, as the page, Markdown and the terminal are given it. Invariant: every row has as many cells as the
//! header.

use serde::Serialize;

/// Header and rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Table {
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(header: [&str; N], rows: Vec<Vec<String>>) -> Self {
        Self { header: header.map(String::from).to_vec(), rows }
    }
}
