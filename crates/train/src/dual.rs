//! The dual variable of a term that is a constraint. In: what the term was worth in a step; out: what it weighs in the
//! next. Invariant: a resumed run takes it from its checkpoint, so that it goes on with the same bits.

use serde::{Deserialize, Serialize};

/// A dual variable, and the bound that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dual {
    /// The weight of the term.
    pub value: f64,
    /// What the term may be worth, in nats per token.
    pub bound: f64,
}

impl Dual {
    /// Moves by `step` times what the term's value is above the bound; never below 0.
    pub fn update(&mut self, value: f64, step: f64) {
        self.value = (self.value + step * (value - self.bound)).max(0.0);
    }
}

/// What the term is called in the metrics.
pub fn key(term: &str) -> String {
    format!("dual_{term}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dual_variable_rises_above_its_bound_and_falls_below_it_to_0() {
        let mut dual = Dual { value: 1.0, bound: 2.0 };
        dual.update(2.5, 0.5);
        assert!((dual.value - 1.25).abs() < 1e-12);
        dual.update(0.0, 1.0);
        assert_eq!(dual.value.to_bits(), 0f64.to_bits());
        let text = serde_json::to_string(&Dual { value: 0.1 + 0.2, bound: 1.0 / 3.0 }).unwrap();
        let back: Dual = serde_json::from_str(&text).unwrap();
        assert_eq!((back.value.to_bits(), back.bound.to_bits()), ((0.1f64 + 0.2).to_bits(), (1.0f64 / 3.0).to_bits()));
    }
}
