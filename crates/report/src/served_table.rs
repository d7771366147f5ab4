//! Subjects that a server had. In: what summary.json says of their self-tests; out: a table. Invariant: what could not
//! be tested stands beside what passed; there is no row where all subjects were loaded.

use crate::summary::Summary;
use crate::table::Table;

/// Said above the table.
pub(crate) const CAPTION: &str = "Subjects that a server had, and what was tested before they were measured. \
    names: two names on one server are two models. scores: a fixed text scores the same twice. \
    greedy: tokens of greedy answers are the likeliest. template: prompts have the tokens of the chat template here. \
    prefill: an answer goes on from its opening. \
    Where something is not known, a figure may be of another model or prompt than its name says.";

/// A line for each subject that a server had.
pub(crate) fn table(summary: &Summary) -> Table {
    let lines = summary.subjects.iter().filter_map(|subject| {
        let served = subject.served.as_ref()?;
        let of = |passed: bool| served.checks.iter().filter(move |check| (check.result == "passed") == passed);
        let passed: Vec<String> = of(true).map(|check| format!("{}: {}", check.check, check.detail)).collect();
        let unknown: Vec<String> = of(false).map(|check| format!("{}: {}", check.check, check.detail)).collect();
        let server = served.server.clone().unwrap_or_else(|| "not told".to_owned());
        let unknown = if unknown.is_empty() { "nothing".to_owned() } else { unknown.join("; ") };
        let model = format!("{} at {}", served.model, served.url);
        Some(vec![subject.name.clone(), model, server, passed.join("; "), unknown])
    });
    Table::new(["subject", "model", "server", "passed", "not known"], lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::served::{Served, ServedCheck};
    use crate::summary::Subject;

    #[test]
    fn what_is_not_known_of_a_server_stands_beside_what_passed() {
        let check = |check: &str, result: &str| ServedCheck {
            check: check.into(),
            result: result.into(),
            detail: format!("about {check}"),
        };
        let served = Served {
            url: "http://x/v1".into(),
            model: "m".into(),
            checks: vec![check("greedy", "passed"), check("template", "unknown")],
            ..Served::default()
        };
        let subject = |name: &str, served| Subject { name: name.into(), served, ..Subject::default() };
        let summary =
            Summary { subjects: vec![subject("base", None), subject("hard", Some(served))], ..Summary::default() };
        let line = ["hard", "m at http://x/v1", "not told", "greedy: about greedy", "template: about template"];
        assert_eq!(table(&summary).rows, [line.map(str::to_owned)]);
    }
}
