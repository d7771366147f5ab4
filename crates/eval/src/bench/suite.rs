//! Suites: tasks that belong together, and the files of a directory that hold their items. In: a suite's name; out: its
//! tasks with the names that their files usually have. Invariant: every task of a suite is one of the tasks.

use eraser_model::Result;

/// The part that stands for the set that is to be forgotten, in names of files.
const FORGET: &str = "{forget}";
/// The part that stands for the questions that are compared with it.
const HOLDOUT: &str = "{holdout}";
/// The set that [`super::hub_rows`] names.
const DEFAULT_FORGET: &str = "forget10";

/// Tasks that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite {
    /// Its name.
    pub name: &'static str,
    /// Its tasks.
    pub files: &'static [SuiteFile],
}

/// A task of a suite, and the file of its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuiteFile {
    /// The task.
    pub task: &'static str,
    /// What the file may be called, without its ending.
    names: &'static [&'static str],
    /// What the file of its examples may be called.
    examples: &'static [&'static str],
    /// The suite is measured without it where it is not there.
    pub optional: bool,
}

const fn needed(task: &'static str, names: &'static [&'static str]) -> SuiteFile {
    SuiteFile { task, names, examples: &[], optional: false }
}

const fn optional(task: &'static str, names: &'static [&'static str]) -> SuiteFile {
    SuiteFile { task, names, examples: &[], optional: true }
}

const fn shown(task: &'static str, names: &'static [&'static str], examples: &'static [&'static str]) -> SuiteFile {
    SuiteFile { task, names, examples, optional: true }
}

const SUITES: [Suite; 3] = [
    Suite {
        name: "muse",
        files: &[
            optional("muse_verbmem", &["verbmem/forget"]),
            shown("muse_knowmem_forget", &["knowmem/forget_qa"], &["knowmem/forget_qa_icl"]),
            shown("muse_knowmem_retain", &["knowmem/retain_qa"], &["knowmem/retain_qa_icl"]),
            optional("muse_forget", &["privleak/forget"]),
            optional("muse_holdout", &["privleak/holdout"]),
        ],
    },
    Suite {
        name: "tofu",
        files: &[
            needed("tofu_forget", &["{forget}_perturbed"]),
            needed("tofu_retain", &["retain_perturbed"]),
            needed("tofu_real_authors", &["real_authors_perturbed"]),
            needed("tofu_world_facts", &["world_facts_perturbed"]),
            optional("tofu_holdout", &["{holdout}"]),
        ],
    },
    Suite {
        name: "wmdp",
        files: &[
            optional("wmdp_bio", &["wmdp_bio", "wmdp-bio", "bio"]),
            optional("wmdp_chem", &["wmdp_chem", "wmdp-chem", "chem"]),
            optional("wmdp_cyber", &["wmdp_cyber", "wmdp-cyber", "cyber"]),
        ],
    },
];

/// Every suite.
pub fn suites() -> &'static [Suite] {
    &SUITES
}

impl Suite {
    /// The suite called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn find(name: &str) -> Result<&'static Self> {
        let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        SUITES.iter().find(|suite| suite.name == name).ok_or_else(|| crate::name::unknown("suite", name, &known))
    }

    /// True if it has a set that is to be forgotten, of which there are several.
    pub fn has_forget_set(&self) -> bool {
        self.files.iter().any(|file| file.names.iter().any(|name| name.contains(FORGET)))
    }
}

impl SuiteFile {
    /// What the file may be called, without its ending, for the set `forget`.
    pub fn names(&self, forget: &str) -> Vec<String> {
        let holdout = holdout(forget);
        self.names.iter().map(|name| name.replace(FORGET, forget).replace(HOLDOUT, &holdout)).collect()
    }

    /// What the file of its examples may be called; none where it has none.
    pub fn examples(&self) -> &'static [&'static str] {
        self.examples
    }

    /// The path of the hub's file for the set `forget`, given that of the usual one.
    pub fn on_hub(path: &str, forget: &str) -> String {
        path.replacen(DEFAULT_FORGET, forget, 1).replacen(&holdout(DEFAULT_FORGET), &holdout(forget), 1)
    }
}

/// The questions that are compared with a set: `holdout10` with `forget10`.
fn holdout(forget: &str) -> String {
    forget.replacen("forget", "holdout", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_of_a_suite_is_known() {
        let all: Vec<&str> = super::super::tasks().collect();
        assert!(SUITES.iter().flat_map(|suite| suite.files).all(|file| all.contains(&file.task)));
        let names = |file: &SuiteFile| file.names("forget05").join(" ");
        let tofu = Suite::find("tofu").unwrap();
        assert_eq!(names(&tofu.files[0]), "forget05_perturbed");
        assert_eq!(names(&tofu.files[4]), "holdout05");
        assert_eq!(SuiteFile::on_hub("holdout10/train/0000.parquet", "forget01"), "holdout01/train/0000.parquet");
        assert!(Suite::find("tofy").unwrap_err().hints().join(" ").contains("tofu"));
    }
}
