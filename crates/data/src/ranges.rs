//! Ranges of options. In: the values of fields; out: the values out of range, by the name of the field. Invariant:
//! whoever asks knows where a field was given (a flag, a key of a run file) and says so; here it is the name of the
//! field.

/// A field whose value is out of range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongValue {
    /// The name of the field.
    pub field: &'static str,
    /// What it must be: "must be ..".
    pub what: String,
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub struct Ranges(Vec<WrongValue>);

impl Ranges {
    /// Notes `field` unless it is `good`: it must be `what`.
    pub fn need(&mut self, field: &'static str, good: bool, what: &str) {
        if !good {
            self.0.push(WrongValue { field, what: format!("must be {what}") });
        }
    }

    /// `field` is from `least` to `most`.
    pub fn within(&mut self, field: &'static str, n: usize, least: usize, most: usize) {
        self.need(field, (least..=most).contains(&n), &format!("from {least} to {most}"));
    }

    /// `field` is at least 1.
    pub fn at_least_one(&mut self, field: &'static str, n: usize) {
        self.need(field, n > 0, "at least 1");
    }

    /// `field` is a finite number above 0.
    pub fn positive(&mut self, field: &'static str, x: f64) {
        self.need(field, x.is_finite() && x > 0.0, "a positive number");
    }

    /// `field` is a finite number, 0 or above.
    pub fn not_negative(&mut self, field: &'static str, x: f64) {
        self.need(field, x.is_finite() && x >= 0.0, "0 or a positive number");
    }

    /// `field` is a share below 1: at least 0 and below 1.
    pub fn below_one(&mut self, field: &'static str, x: f64) {
        self.need(field, (0.0..1.0).contains(&x), "at least 0 and below 1");
    }

    /// What is wrong, in the order in which it was looked at.
    pub fn finish(self) -> Vec<WrongValue> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_range_is_named_in_order() {
        let mut ranges = Ranges::default();
        ranges.within("a", 3, 1, 3);
        ranges.within("b", 0, 1, 3);
        ranges.at_least_one("c", 0);
        for (x, field) in [(f64::NAN, "d"), (f64::INFINITY, "e"), (0.0, "f")] {
            ranges.positive(field, x);
        }
        ranges.not_negative("g", -0.1);
        ranges.not_negative("h", 0.0);
        ranges.below_one("i", 1.0);
        let found = ranges.finish();
        assert_eq!(found.iter().map(|w| w.field).collect::<String>(), "bcdefgi");
        assert_eq!(found[0].what, "must be from 1 to 3");
    }
}
