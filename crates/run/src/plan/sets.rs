//! The sets that can be files, as flags and run files name them.

use eraser_train::SetName;

/// A set as `[data]` names it.
pub(super) struct SetKey {
    pub(super) set: SetName,
    pub(super) key: &'static str,
    /// What the key was called before.
    pub(super) alias: &'static str,
    pub(super) required: bool,
}

/// The sets that can be files.
pub(super) const SETS: [SetKey; 4] = [
    SetKey { set: SetName::Harm, key: "harm", alias: "harm_set", required: true },
    SetKey { set: SetName::Help, key: "help_set", alias: "help", required: true },
    SetKey { set: SetName::Align, key: "align", alias: "align_set", required: true },
    SetKey { set: SetName::Retain, key: "retain_set", alias: "retain", required: false },
];

/// The key of a set in `[data]`, and with `-` for `_` its flag.
pub fn set_key(set: SetName) -> &'static str {
    SETS.iter().find(|known| known.set == set).map_or(set.name(), |known| known.key)
}
