//! Figures as text. Invariant: what was not measured is an en dash, never a 0.

use crate::summary::{Change, Timing};

/// Shown where nothing was measured.
pub(crate) const NONE: &str = "\u{2013}";

/// A share in per cent with one decimal: `12.5%`.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| NONE.into(), |s| format!("{}%", decimal(s * 100.0, 1)))
}

/// An interval of shares: `[8.1, 18.7]`, in per cent.
pub(crate) fn interval(ci: Option<[f64; 2]>) -> String {
    ci.map_or_else(
        || NONE.into(),
        |ci| {
            let [lo, hi] = ci.map(|x| decimal(x * 100.0, 1));
            format!("[{lo}, {hi}]")
        },
    )
}

/// A difference of shares in points, with its sign: `+1.5`, `-0.4`, `0.0`.
pub(crate) fn points(difference: f64) -> String {
    signed(difference * 100.0, 1)
}

/// A difference of shares in points with its interval: `-12.0 points [-20.1, -3.9]`.
pub(crate) fn change(change: &Change) -> String {
    let [low, high] = change.ci.map(points);
    format!("{} points [{low}, {high}]", points(change.difference))
}

/// A number with its sign; what rounds to zero has none.
pub(crate) fn signed(x: f64, decimals: usize) -> String {
    let text = format!("{x:+.decimals$}");
    if text.trim_start_matches(['+', '-']).chars().all(|c| c == '0' || c == '.') {
        return text.trim_start_matches(['+', '-']).into();
    }
    text
}

/// A plain number with about four significant digits.
pub(crate) fn number(x: f64) -> String {
    let magnitude = x.abs();
    if magnitude != 0.0 && !(1e-3..1e6).contains(&magnitude) {
        format!("{x:.2e}")
    } else {
        decimal(x, if magnitude >= 100.0 { 1 } else { 3 })
    }
}

/// A stretch of time: `8.4 s`, `3 min 20 s`, `2 h 05 min`.
fn seconds(s: f64) -> String {
    let whole = s.round() as u64;
    match whole {
        0..60 => format!("{s:.1} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// What a run took, by stage; stages that were not timed are left out. `requests` are the seconds of each evaluation
/// and benchmark that figures come from: where there are several, the other times are of the last one.
pub(crate) fn timing(t: &Timing, requests: &[f64]) -> Vec<(String, String)> {
    let several = requests.len() > 1;
    let last = if several { " (the last one only)" } else { "" };
    let times = [
        ("Training".to_owned(), t.train_s),
        (format!("Evaluation{last}"), t.eval_s),
        (
            format!("All {} evaluations and benchmarks", requests.len()),
            several.then(|| requests.iter().sum()).filter(|_| t.eval_s.is_some()),
        ),
        (format!("Whole command{last}"), t.total_s),
    ];
    let times = times.into_iter().filter_map(|(what, s)| Some((what, seconds(s?))));
    times.chain(t.peak_rss_mb.map(|mb| (format!("Peak memory{last}"), format!("{mb} MB")))).collect()
}

/// The first `limit` characters, with a note of how many were left out.
pub(crate) fn clip(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        None => text.into(),
        Some((at, _)) => {
            format!("{} \u{2026} [{} more]", &text[..at], counted(text[at..].chars().count() as u64, "character"))
        }
    }
}

/// `1 step`, `2 steps`, `1 entity`, `3 entities`.
pub(crate) fn counted(n: u64, noun: &str) -> String {
    if n == 1 {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{n} {stem}ies"),
        _ => format!("{n} {noun}s"),
    }
}

/// A number with `decimals` decimals; what rounds to zero is zero, without a sign.
pub(crate) fn decimal(x: f64, decimals: usize) -> String {
    let text = format!("{x:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        _ => text,
    }
}

/// `a, b and c`.
pub(crate) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(percent(Some(0.125)), "12.5%");
        assert_eq!(percent(None), "\u{2013}");
        assert_eq!(interval(Some([0.0, 1.0])), "[0.0, 100.0]");
        assert_eq!(interval(Some([-1e-9, 1.0])), "[0.0, 100.0]");
        assert_eq!(points(-0.000_01), "0.0");
        assert_eq!(points(0.015), "+1.5");
        assert_eq!(number(0.0), "0.000");
        assert_eq!(number(-0.0), "0.000");
        assert_eq!(["-0.004", "0.004", "-0.006"].map(|x| decimal(x.parse().unwrap(), 2)), ["0.00", "0.00", "-0.01"]);
        assert_eq!([1, 2].map(|n| counted(n, "entity")), ["1 entity", "2 entities"]);
        assert_eq!(number(2e-5), "2.00e-5");
        assert_eq!(seconds(3725.0), "1 h 02 min");
        let took = Timing { eval_s: Some(2.0), ..Timing::default() };
        assert_eq!(timing(&took, &[2.0]), [("Evaluation".to_owned(), "2.0 s".to_owned())]);
        let told = timing(&took, &[7.0, 2.0]).into_iter().map(|(what, s)| format!("{what}: {s}")).collect::<Vec<_>>();
        assert_eq!(told, ["Evaluation (the last one only): 2.0 s", "All 2 evaluations and benchmarks: 9.0 s"]);
        assert_eq!(clip("äöü", 2), "äö \u{2026} [1 character more]");
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
