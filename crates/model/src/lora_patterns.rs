//! Ranks and scales of single modules (`rank_pattern` and `alpha_pattern` of PEFT). In: regular expressions over the
//! ends of modules' names, each with a value; out: rank, alpha and scale of a module by its name. Invariant: of several
//! expressions that match a name the first counts, as in PEFT (`get_pattern_key`).

use crate::{Error, Result};
use fancy_regex::Regex;
use serde::{Deserialize, Serialize};

/// The largest rank that is read.
pub(crate) const MAX_RANK: usize = 65_536;

/// Ranks and alphas that differ from those of the whole adapter. An expression matches a module where it matches the
/// whole of its name, or the end of it behind a full stop: `q_proj`, or `layers\.0\..*`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Patterns {
    /// Ranks, in the order of the file.
    pub ranks: Vec<(String, usize)>,
    /// Alphas, in the order of the file.
    pub alphas: Vec<(String, f64)>,
}

/// What one module has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Own {
    pub(crate) r: usize,
    pub(crate) alpha: f64,
    /// What multiplies `B A`.
    pub(crate) scale: f32,
}

impl Own {
    /// The scale is alpha / r, or alpha / sqrt(r) with `rslora`.
    pub(crate) fn new(r: usize, alpha: f64, rslora: bool) -> Self {
        let divisor = r as f64;
        Self { r, alpha, scale: (alpha / if rslora { divisor.sqrt() } else { divisor }) as f32 }
    }
}

impl Patterns {
    /// True where every module has the rank and alpha of the adapter.
    pub fn is_empty(&self) -> bool {
        self.ranks.is_empty() && self.alphas.is_empty()
    }

    /// Patterns that name each of `modules` which differs from rank `r` and `alpha`.
    pub(crate) fn naming(modules: &[(String, Own)], r: usize, alpha: f64) -> Self {
        let ranks = modules.iter().filter(|(_, own)| own.r != r).map(|(name, own)| (name.clone(), own.r));
        let alphas = modules.iter().filter(|(_, own)| own.alpha.to_bits() != alpha.to_bits());
        Self { ranks: ranks.collect(), alphas: alphas.map(|(name, own)| (name.clone(), own.alpha)).collect() }
    }
}

/// Rank and scale of modules by their names.
pub(crate) struct ByModule {
    /// What a module has that no expression matches.
    pub(crate) default: Own,
    rslora: bool,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl ByModule {
    /// Of an adapter with these patterns, whose other modules have rank `r` and `alpha`.
    ///
    /// # Errors
    /// Text that is no regular expression.
    pub(crate) fn new(patterns: &Patterns, r: usize, alpha: f64, rslora: bool) -> Result<Self> {
        let (ranks, alphas) =
            (compiled("rank_pattern", &patterns.ranks)?, compiled("alpha_pattern", &patterns.alphas)?);
        Ok(Self { default: Own::new(r, alpha, rslora), rslora, ranks, alphas })
    }

    /// What a module has, by its path in the model's class.
    ///
    /// # Errors
    /// An expression that takes too long to match.
    pub(crate) fn of(&self, module: &str) -> Result<Own> {
        if self.ranks.is_empty() && self.alphas.is_empty() {
            return Ok(self.default);
        }
        let r = first("rank_pattern", &self.ranks, module)?.unwrap_or(self.default.r);
        let alpha = first("alpha_pattern", &self.alphas, module)?.unwrap_or(self.default.alpha);
        Ok(Own::new(r, alpha, self.rslora))
    }
}

/// Tells of expressions that match none of an adapter's modules, and so change nothing.
///
/// # Errors
/// As [`ByModule::new`] and [`ByModule::of`].
pub(crate) fn warn_unmatched(patterns: &Patterns, modules: &[String]) -> Result<()> {
    let all = unmatched(patterns, modules)?;
    if !all.is_empty() {
        let list = all.join(", ");
        tracing::warn!(
            "adapter_config.json: {list}: no module of the adapter has such a name, so this changes nothing"
        );
    }
    Ok(())
}

fn unmatched(patterns: &Patterns, modules: &[String]) -> Result<Vec<String>> {
    let ranks = patterns.ranks.iter().map(|(pattern, _)| ("rank_pattern", pattern));
    let mut all = Vec::new();
    for (key, pattern) in ranks.chain(patterns.alphas.iter().map(|(pattern, _)| ("alpha_pattern", pattern))) {
        let regex = compiled(key, &[(pattern.clone(), ())])?;
        let mut found = false;
        for module in modules {
            found = found || first(key, &regex, module)?.is_some();
        }
        if !found {
            all.push(format!("'{key}' `{pattern}`"));
        }
    }
    Ok(all)
}

fn compiled<T: Copy>(key: &str, patterns: &[(String, T)]) -> Result<Vec<(Regex, T)>> {
    let one = |(pattern, value): &(String, T)| {
        let regex = Regex::new(&format!(r"^(.*\.)?({pattern})$")).map_err(|e| {
            Error::request(format!("key '{key}': `{pattern}` is not a regular expression"))
                .hint("it is matched against the ends of modules' names, for example q_proj")
                .because(Error::request(e.to_string()))
        })?;
        Ok((regex, *value))
    };
    patterns.iter().map(one).collect()
}

fn first<T: Copy>(key: &str, patterns: &[(Regex, T)], module: &str) -> Result<Option<T>> {
    for (regex, value) in patterns {
        let matches = regex
            .is_match(module)
            .map_err(|e| Error::request(format!("key '{key}': `{}` cannot be matched: {e}", regex.as_str())))?;
        if matches {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(ranks: &[(&str, usize)], alphas: &[(&str, f64)]) -> Patterns {
        let ranks = ranks.iter().map(|(key, r)| ((*key).to_owned(), *r)).collect();
        Patterns { ranks, alphas: alphas.iter().map(|(key, alpha)| ((*key).to_owned(), *alpha)).collect() }
    }

    /// What PEFT 0.21.2's `get_pattern_key` finds, each run there.
    #[test]
    fn a_key_matches_what_it_matches_in_peft() {
        let q = "model.layers.1.self_attn.q_proj";
        for (key, matches) in [
            ("q_proj", true),
            ("proj", false),
            ("self_attn.q_proj", true),
            ("attn.q_proj", false),
            ("q_proj|k_proj", true),
            ("model.layers.1.self_attn.q_proj", true),
            ("^model.layers.1.self_attn.q_proj", true),
            ("^layers.1.self_attn.q_proj", false),
            ("layers.11.self_attn.q_proj", false),
            (r"layers\.[0-1]\..*", true),
            (r".*\.model\.layers\.1\.self_attn\.q_proj", false),
            (r"layers\.(?!1\.)\d+\..*", false),
            ("(?P<part>self)_attn.q_proj", true),
            ("q_pro", false),
            ("", false),
        ] {
            let by_module = ByModule::new(&patterns(&[(key, 3)], &[(key, 5.0)]), 2, 4.0, false).unwrap();
            let expected = if matches { Own::new(3, 5.0, false) } else { Own::new(2, 4.0, false) };
            assert_eq!(by_module.of(q).unwrap(), expected, "{key}");
        }
    }

    /// An alpha of a misspelt name changed nothing, without a word.
    #[test]
    fn keys_that_match_nothing_are_told() {
        let modules = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"].map(str::to_owned);
        let both = patterns(&[("q_proj", 16), ("k_proj", 4)], &[(r"layers\.0\..*", 3.0), ("q_porj", 2.0)]);
        assert_eq!(unmatched(&both, &modules).unwrap(), ["'rank_pattern' `k_proj`", "'alpha_pattern' `q_porj`"]);
    }

    #[test]
    fn the_first_key_that_matches_counts_and_ranks_decide_the_scale() {
        let both = patterns(&[("q_proj", 16), (r".*", 4)], &[(r"layers\.0\..*", 3.0)]);
        let by_module = ByModule::new(&both, 2, 8.0, true).unwrap();
        let scales = ["layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj"].map(|name| by_module.of(name).unwrap());
        assert_eq!(scales.map(|own| (own.r, own.alpha, own.scale)), [(16, 3.0, 0.75), (4, 3.0, 1.5), (16, 8.0, 2.0)]);
    }

    #[test]
    fn a_key_that_is_no_expression_is_named() {
        let error = ByModule::new(&patterns(&[], &[("q_proj(", 1.0)]), 2, 8.0, false).err().unwrap().to_string();
        assert!(error.contains("'alpha_pattern'") && error.contains("`q_proj(`"), "{error}");
        // Nested repeats, which take a time that grows with the power of the name's length.
        let slow = ByModule::new(&patterns(&[(r"(?:(a*)*\1)*b", 1)], &[]), 2, 8.0, false).unwrap();
        let _ = slow.of(&"a".repeat(60));
    }

    #[test]
    fn patterns_that_name_modules_say_what_was_said() {
        let modules: Vec<(String, Own)> = [(2, 8.0), (3, 8.0), (2, 1.0)]
            .into_iter()
            .enumerate()
            .map(|(layer, (r, alpha))| (format!("model.layers.{layer}.mlp.up_proj"), Own::new(r, alpha, false)))
            .collect();
        let named = Patterns::naming(&modules, 2, 8.0);
        assert_eq!((named.ranks.len(), named.alphas.len()), (1, 1));
        let by_module = ByModule::new(&named, 2, 8.0, false).unwrap();
        assert!(modules.iter().all(|(name, own)| by_module.of(name).unwrap() == *own));
    }
}
