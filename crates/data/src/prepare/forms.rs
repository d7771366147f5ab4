//! The forms of help questions. In: an entity; out: questions about it, in our own wording, with the ten intents of
//! Eraser (arXiv 2404.05880). Invariant: which forms an entity gets depends on the seed and the entity only.

use crate::stream;
use rand::seq::SliceRandom as _;
use sha2::{Digest, Sha256};

/// One form per intent: use, features, category, example, similar things, impact, story, where found, history, where to
/// learn.
const FORMS: [&str; 10] = [
    "What do people use {} for?",
    "Which features set {} apart?",
    "What kind of thing is {}, and what category does it belong to?",
    "Could you give me a typical example of {}?",
    "What is similar to {}, and how does it differ?",
    "How does {} affect everyday life?",
    "Please tell me a short story in which {} plays a part.",
    "Where does one usually come across {}?",
    "What is known about the history of {}?",
    "Where could I learn more about {}?",
];

/// `count` questions about `entity`, each of another form, in the order of [`FORMS`]; all ten when None.
pub(super) fn questions(entity: &str, count: Option<usize>, seed: u64) -> Vec<String> {
    let mut forms: Vec<usize> = (0..FORMS.len()).collect();
    if let Some(count) = count.filter(|n| *n < FORMS.len()) {
        let digest = Sha256::digest(entity.as_bytes());
        let own = digest.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte));
        forms.shuffle(&mut stream(seed, "forms", &[own]));
        forms.truncate(count);
        forms.sort_unstable();
    }
    forms.into_iter().map(|form| FORMS[form].replace("{}", entity)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_holds_the_entity_once() {
        let all = questions("rust", None, 1);
        assert!(all.iter().all(|q| q.matches("rust").count() == 1));
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), 10);
    }

    #[test]
    fn a_number_of_forms_is_drawn_by_entity() {
        assert_eq!(questions("rust", Some(3), 1).len(), 3);
        assert_eq!(questions("rust", Some(3), 1), questions("rust", Some(3), 1));
        assert_eq!(questions("rust", Some(99), 1).len(), 10);
        let distinct: std::collections::HashSet<String> =
            (0..40).map(|i| questions(&format!("e{i}"), Some(1), 1)[0].replace(&format!("e{i}"), "")).collect();
        assert!(distinct.len() > 5, "{distinct:?}");
    }
}
