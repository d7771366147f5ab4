//! Errors about models of no supported family, and about keys that contradict each other. In: the name of a family, a
//! class or an architecture; out: an error with the nearest family that is supported. Invariant: names that a hint
//! gives are of the kind that was named: types of config.json, or architectures of GGUF files.

use super::family::Spec;
use crate::{Error, words};

/// What was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsupported {
    /// `model_type` of a config.json.
    ModelType,
    /// A class of transformers.
    Class,
    /// `general.architecture` of a GGUF file.
    Architecture,
}

const EXPERTS: &str = "a mixture of experts";
const IMAGES: &str = "a model of text and images";
const HYBRID: &str = "a model with layers of other kinds than attention";
const LAYER_NORM: &str = "a model with LayerNorm";

/// Families that are known and not supported: how their names begin, what they are, and the nearest supported one.
/// Names are in lower case, letters and digits only; longer ones come first, and one with a full stop is the whole name.
const KNOWN: &[(&str, &str, Option<&str>)] = &[
    ("apertus", "a model with the activation xIELU", Some("llama")),
    ("bamba", HYBRID, None),
    ("bloom", LAYER_NORM, None),
    ("cohere", "a model with parallel blocks and LayerNorm", None),
    ("commandr", "a model with parallel blocks and LayerNorm", None),
    ("deepseek", "a mixture of experts with latent attention", None),
    ("exaonemoe", EXPERTS, Some("exaone4")),
    ("exaone", "a model of Llama's kind under other names", Some("llama")),
    ("falconh1", HYBRID, None),
    ("falconmamba", HYBRID, None),
    ("falcon", LAYER_NORM, None),
    ("gemma3n", "a model with embeddings for each layer and shared keys and values", Some("gemma3_text")),
    ("gemma4", "a model with heads of two widths and shared keys and values", Some("gemma3_text")),
    ("gptoss", "a mixture of experts with attention sinks", Some("mixtral")),
    ("gpt", LAYER_NORM, None),
    ("granitehybrid", HYBRID, Some("granite")),
    ("granitemoe", EXPERTS, Some("granite")),
    ("graniteswa", "a model with attention sinks", Some("granite")),
    ("jamba", HYBRID, None),
    ("lfm", HYBRID, None),
    ("llama4", "a mixture of experts with chunked attention", Some("llama")),
    ("mamba", HYBRID, None),
    ("ministral", "a model with a window on some layers", Some("mistral")),
    ("nemotronh", HYBRID, None),
    ("olmoe", EXPERTS, Some("olmo2")),
    ("olmohybrid", HYBRID, Some("olmo3")),
    ("olmo.", "a model with LayerNorm without weights", Some("olmo2")),
    ("phimoe", EXPERTS, Some("phi3")),
    ("phi4m", IMAGES, Some("phi3")),
    ("phi.", "a model with parallel blocks and LayerNorm", Some("phi3")),
    ("qwen2moe", EXPERTS, Some("qwen2")),
    ("qwen2vl", IMAGES, Some("qwen2")),
    ("qwen25vl", IMAGES, Some("qwen2")),
    ("qwen3vl", IMAGES, Some("qwen3")),
    ("qwen3next", "a mixture of experts with linear attention", Some("qwen3")),
    ("qwen35", "a model with linear attention", Some("qwen3")),
    ("rwkv", HYBRID, None),
    ("zamba", HYBRID, None),
];

/// What the names of classes end with that have no head which writes text.
const OTHER_HEADS: [&str; 6] = [
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForRewardModeling",
    "RewardModel",
    "Model",
];

impl Unsupported {
    /// The error for a name that belongs to no family. `key` is where it stands.
    pub(super) fn error(self, key: &str, value: &str) -> Error {
        if self == Self::Class
            && let Some((family, head)) = other_head(value)
        {
            let class = family.class;
            return Error::request(format!("`{key}` {value}: this class has no head that writes text"))
                .hint(format!("a model for chats has the class {class}; `{head}` classifies, scores or embeds texts"));
        }
        let wanted = plain(value);
        let is = |name: &str| name.strip_suffix('.').map_or_else(|| wanted.starts_with(name), |name| wanted == name);
        let own = |spec: &Spec| if self == Self::Architecture { spec.architecture } else { spec.model_type };
        let known = KNOWN.iter().find(|(name, ..)| is(name));
        // A supported name in other letters, or the name of its class.
        let meant = Spec::all().iter().map(|spec| own(spec)).find(|name| plain(name) == wanted);
        if let Some(meant) = meant {
            return Error::request(format!("`{key}` {value} is not known"))
                .hint(format!("did you mean {meant}? It is the same name as it is written in files"));
        }
        let (what, nearest) = match known {
            Some((_, what, nearest)) => (Some(*what), nearest.and_then(Spec::by_model_type)),
            None => (wanted.contains("moe").then_some(EXPERTS), nearest(&wanted)),
        };
        let what = what.map_or_else(String::new, |what| format!(": it is {what}"));
        let mut error = Error::request(format!("`{key}` {value} is not supported{what}"));
        if let Some(spec) = nearest {
            let name = own(spec);
            error = error.hint(format!("the nearest family that is supported is {name}; it computes something else"));
        }
        // Of what is not known, the name that may have been meant.
        let names = || Spec::all().iter().map(|spec| own(spec));
        if let (None, None, Some(near)) = (known, nearest, words::nearest(value, names())) {
            error = error.hint(format!("did you mean {near}? It is the nearest name that is supported"));
        }
        let all = if self == Self::Architecture { "architectures" } else { "types" };
        error
            .hint(format!("supported are causal language models of the {all} {}", self.supported()))
            .hint("a family is one file: see \"Adding a model family\" in ARCHITECTURE.md")
    }

    /// All names of the kind that are supported.
    fn supported(self) -> String {
        let names = |spec: &&'static Spec| match self {
            Self::Architecture => [Some(spec.architecture), None],
            _ => [Some(spec.model_type), spec.inside.map(|(model_type, _)| model_type)],
        };
        let mut all: Vec<&str> = Spec::all().iter().flat_map(names).flatten().collect();
        all.sort_unstable();
        all.dedup();
        all.join(", ")
    }
}

/// The error for two values of one file that cannot both be meant.
pub(super) fn contradictory(a: &str, b: &str) -> Error {
    Error::request(format!("{a} contradicts {b}"))
        .hint("programs differ in which of the two they take: keep the one that the weights were trained with")
}

/// The family and the rest of a class's name, where the class has another head.
fn other_head(class: &str) -> Option<(&'static Spec, &str)> {
    Spec::all().iter().find_map(|spec| {
        let head = class.strip_prefix(spec.class.strip_suffix("ForCausalLM")?)?;
        OTHER_HEADS.contains(&head).then_some((*spec, head))
    })
}

/// A name without what differs between types, classes and architectures.
fn plain(name: &str) -> String {
    let name: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    name.replace("forcausallm", "").replace("forconditionalgeneration", "")
}

/// Names of one family begin alike. Among equally long beginnings the last is the newest.
fn nearest(wanted: &str) -> Option<&'static Spec> {
    let shared =
        |spec: &&'static Spec| plain(spec.model_type).chars().zip(wanted.chars()).take_while(|(a, b)| a == b).count();
    let experts = |name: &str| name.contains("moe");
    let mut all = Spec::all().to_vec();
    all.sort_unstable_by_key(|spec| spec.model_type);
    let near = |spec: &&'static Spec| (shared(spec), experts(spec.model_type) == experts(wanted));
    all.into_iter().max_by_key(near).filter(|spec| shared(spec) >= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: Unsupported, value: &str) -> (String, String) {
        let error = kind.error("key", value);
        (error.to_string(), error.hints().join("\n"))
    }

    #[test]
    fn the_types_of_larger_models_are_in_the_list_of_supported_ones() {
        let (_, hints) = told(Unsupported::ModelType, "mamba");
        for name in ["gemma3,", "gemma3_text,", "mistral3,", "ministral3,"] {
            assert!(hints.contains(name), "{name} {hints}");
        }
    }

    #[test]
    fn a_gguf_file_is_told_the_architectures_of_gguf_files() {
        let (error, hints) = told(Unsupported::Architecture, "qwen2moe");
        assert!(error.ends_with("a mixture of experts") && hints.contains("is qwen2;"), "{error} {hints}");
        let (_, hints) = told(Unsupported::Architecture, "gemma4");
        assert!(hints.contains("is gemma3;") && !hints.contains("gemma3_text"), "{hints}");
        assert!(hints.contains("architectures arcee,") && !hints.contains("olmo3"), "{hints}");
    }

    #[test]
    fn the_nearest_family_is_one_of_its_kind_and_not_of_its_spelling() {
        for (name, what, nearest) in [
            ("qwen2_moe", "mixture of experts", Some("qwen2")),
            ("qwen3_5_text", "linear attention", Some("qwen3")),
            ("gpt_oss", "attention sinks", Some("mixtral")),
            ("gemma4_text", "two widths", Some("gemma3_text")),
            ("granitemoeshared", "mixture of experts", Some("granite")),
            ("ministral", "window on some layers", Some("mistral")),
            ("llama4_text", "chunked attention", Some("llama")),
            ("deepseek_v3", "latent attention", None),
            ("phi", "parallel blocks", Some("phi3")),
            ("phi9", "is not supported", Some("phi3")),
            ("qwen9_moe", "mixture of experts", Some("qwen3_moe")),
            ("qwen9", "is not supported", Some("qwen3")),
            ("t5", "is not supported", None),
        ] {
            let (error, hints) = told(Unsupported::ModelType, name);
            assert!(error.contains(what), "{name}: {error}");
            let expected = nearest.map(|nearest| format!("supported is {nearest};"));
            assert_eq!(hints.contains("the nearest"), expected.is_some(), "{name}: {hints}");
            assert!(expected.is_none_or(|expected| hints.contains(&expected)), "{name}: {hints}");
        }
    }

    #[test]
    fn a_misspelt_family_is_told_the_name_that_was_meant() {
        for (kind, name, meant) in [
            (Unsupported::ModelType, "lama", "llama"),
            (Unsupported::ModelType, "Lllama", "llama"),
            (Unsupported::ModelType, "quen3", "qwen3"),
            // It was told that qwen3, the nearest family, computes something else.
            (Unsupported::ModelType, "Qwen3", "qwen3"),
            (Unsupported::ModelType, "gemma3-text", "gemma3_text"),
            (Unsupported::ModelType, "LlamaForCausalLM", "llama"),
            (Unsupported::Architecture, "Qwen3", "qwen3"),
            (Unsupported::Architecture, "lama", "llama"),
        ] {
            let (_, hints) = told(kind, name);
            assert!(hints.contains(&format!("did you mean {meant}?")), "{name}: {hints}");
        }
        for name in ["t5", "bert", "mamba", "qwen2_moe"] {
            assert!(!told(Unsupported::ModelType, name).1.contains("did you mean"), "{name}");
        }
    }

    #[test]
    fn every_nearest_family_is_supported() {
        for (name, _, nearest) in KNOWN {
            assert!(nearest.is_none_or(|nearest| Spec::by_model_type(nearest).is_some()), "{name}");
            assert!(Spec::all().iter().all(|spec| plain(spec.model_type) != *name), "{name} is supported");
        }
        let shadowed = KNOWN
            .iter()
            .enumerate()
            .find(|(i, (name, ..))| KNOWN[..*i].iter().any(|(earlier, ..)| name.starts_with(earlier)));
        assert_eq!(shadowed, None, "a longer name comes first");
    }

    #[test]
    fn a_class_with_another_head_is_told_as_that() {
        let (error, hints) = told(Unsupported::Class, "Qwen2ForSequenceClassification");
        assert!(error.contains("no head that writes text") && hints.contains("Qwen2ForCausalLM"), "{error} {hints}");
    }
}
