//! How large a first run is. In: a share of the usual size; out: how many questions, requests and steps it has.
//! Invariant: no number falls below the least that says anything.

/// How many of everything a first run has, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Questions that are trained on.
    pub trained: usize,
    /// Questions that measure.
    pub measured: usize,
    /// Questions that are trained on of which it is measured what became of them.
    pub seen: usize,
    /// Built-in requests that are kept.
    pub kept: usize,
    /// Built-in requests that measure whether harmless ones are refused.
    pub asked: usize,
    /// Training steps; None: those of the preset.
    pub steps: Option<usize>,
}

/// What the comment of a run file that was made for a time begins with.
const MADE_FOR: &str = "# Made for ";
/// Between the minutes and the numbers in that comment.
const MINUTES: &str = " minutes: ";

impl Size {
    /// The usual size, so that a first run on a small model ends in good time.
    pub const USUAL: Self = Self { trained: 120, measured: 60, seen: 20, kept: 400, asked: 58, steps: None };
    /// With less than this, nothing is learnt and no figure means anything.
    pub const LEAST: Self = Self { trained: 16, measured: 12, seen: 6, kept: 40, asked: 16, steps: Some(20) };

    /// About `share` of the usual size; `steps` are those of the preset.
    #[must_use]
    pub fn share(share: f64, steps: usize) -> Self {
        let (usual, least) = (Self::USUAL, Self::LEAST);
        let of = |usual: usize, least: usize| ((usual as f64 * share).round() as usize).clamp(least, usual);
        let least_steps = least.steps.unwrap_or(1).min(steps);
        Self {
            trained: of(usual.trained, least.trained),
            measured: of(usual.measured, least.measured),
            seen: of(usual.seen, least.seen),
            kept: of(usual.kept, least.kept),
            asked: of(usual.asked, least.asked),
            // Fewer rows need fewer steps, but not in proportion.
            steps: Some(((steps as f64 * share.sqrt()).round() as usize).clamp(least_steps, steps)),
        }
    }

    /// The comment that records it.
    pub(super) fn comment(&self, minutes: f64) -> String {
        let Self { trained, measured, seen, kept, asked, steps } = self;
        let steps = steps.map_or_else(|| "preset".to_owned(), |n| n.to_string());
        format!(
            "{MADE_FOR}{minutes}{MINUTES}trained {trained}, measured {measured}, seen {seen}, kept {kept}, asked {asked}, \
             steps {steps}."
        )
    }

    /// The size that the comment of a run file records for so many minutes.
    pub fn recorded(text: &str, minutes: f64) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix(MADE_FOR))?;
        let (made_for, numbers) = line.split_once(MINUTES)?;
        if made_for != minutes.to_string() {
            return None;
        }
        let value = |name: &str| {
            let mut parts = numbers.trim_end_matches('.').split(", ");
            parts.find_map(|part| part.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
        };
        let number = |name: &str| value(name)?.parse().ok();
        Some(Self {
            trained: number("trained")?,
            measured: number("measured")?,
            seen: number("seen")?,
            kept: number("kept")?,
            asked: number("asked")?,
            steps: number("steps"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_between_the_least_and_the_usual() {
        assert_eq!(Size::share(1.0, 60), Size { steps: Some(60), ..Size::USUAL });
        assert_eq!(Size::share(0.0, 60), Size::LEAST);
        let half = Size::share(0.5, 60);
        assert_eq!((half.trained, half.measured, half.kept, half.steps), (60, 30, 200, Some(42)));
        assert_eq!(Size::share(0.0, 5).steps, Some(5));
    }

    #[test]
    fn a_size_is_read_back_for_the_minutes_that_it_was_made_for() {
        let size = Size::share(0.3, 60);
        let text = format!("# A first run\n{}\n[run]\n", size.comment(2.5));
        assert_eq!((Size::recorded(&text, 2.5), Size::recorded(&text, 3.0)), (Some(size), None));
        assert_eq!(Size::recorded(&Size::USUAL.comment(9.0), 9.0), Some(Size::USUAL));
        for damaged in ["", "# Made for 2.5 minutes: trained", "# Made for 2.5"] {
            assert_eq!(Size::recorded(damaged, 2.5), None);
        }
    }
}
