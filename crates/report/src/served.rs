//! What summary.json says of a subject that a server had. Invariant: what an older or a newer version leaves out is
//! unknown, and no error.

use serde::Deserialize;

/// What is known of a served subject.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Served {
    /// Base URL of the server.
    #[serde(default)]
    pub url: String,
    /// The model's name there.
    #[serde(default)]
    pub model: String,
    /// The server's software and version.
    #[serde(default)]
    pub server: Option<String>,
    /// The files behind the name.
    #[serde(default)]
    pub origin: Option<String>,
    /// Its self-test.
    #[serde(default)]
    pub checks: Vec<ServedCheck>,
}

/// One check of a self-test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ServedCheck {
    /// Its name.
    pub check: String,
    /// `passed` or `unknown`.
    pub result: String,
    /// What was found.
    #[serde(default)]
    pub detail: String,
}
