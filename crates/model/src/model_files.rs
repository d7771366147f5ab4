//! The files of a model. In: a Hugging Face directory or a GGUF file; out: configuration, tokenizer, chat template and
//! network, each by itself, so that what is wrong with one does not hide what is wrong with another. Invariant: what a
//! file says and the network does not use is told.

use crate::decoder::WeightStorage;
use crate::fingerprint::Fingerprint;
use crate::gguf::GgufFile;
use crate::weights::{GgufWeights, HfDirectory, TensorSource};
use crate::{ChatTemplate, Decoder, Error, ModelConfig, Result, Tokenizer, config, counted};
use candle_core::Device;
use std::path::{Path, PathBuf};

/// Where a model is read from.
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    /// None for a directory.
    gguf: Option<GgufFile>,
}

impl ModelFiles {
    /// The files at `path`.
    ///
    /// # Errors
    /// A directory or a file of something else, or a damaged one.
    pub fn open(path: &Path) -> Result<Self> {
        let gguf = if path.is_dir() {
            is_model(path)?;
            None
        } else if path.extension().is_some_and(|ext| ext == "safetensors") {
            return Err(Error::request(format!("{}: a safetensors file alone is not a model", path.display()))
                .hint("pass the directory that holds it, with config.json and tokenizer.json"));
        } else {
            Some(GgufFile::open(path)?)
        };
        Ok(Self { path: path.to_owned(), gguf })
    }

    /// The shape of the network, as the configuration describes it.
    ///
    /// # Errors
    /// A configuration that is missing, damaged or of a model that is not supported.
    pub fn config(&self) -> Result<ModelConfig> {
        self.gguf.as_ref().map_or_else(|| ModelConfig::from_hf_dir(&self.path), ModelConfig::from_gguf)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// Files that are missing or damaged, or of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        self.gguf.as_ref().map_or_else(|| Tokenizer::from_hf_dir(&self.path), Tokenizer::from_gguf)
    }

    /// The chat template that `named` names, or else the model's own; None where it has none.
    ///
    /// # Errors
    /// A template that cannot be read, or a name that nothing has.
    pub fn template(&self, named: Option<&Path>, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        match (named, &self.gguf) {
            (Some(named), _) => ChatTemplate::named(named, &self.path, tokenizer).map(Some),
            (None, Some(file)) => ChatTemplate::from_gguf(file, tokenizer),
            (None, None) => ChatTemplate::from_hf_dir(&self.path, tokenizer),
        }
    }

    /// The network of the shape `config`, in which what the weights show of ties is corrected, and the fingerprint of
    /// the tensors.
    pub(crate) fn decoder(
        &self,
        config: &mut ModelConfig,
        held: WeightStorage,
        device: &Device,
    ) -> Result<(Decoder, Fingerprint)> {
        if let Some(file) = &self.gguf {
            let fingerprint = Fingerprint::of_tensors(&file.fingerprinted());
            file.release();
            let weights = GgufWeights::new(file, config);
            let decoder = Decoder::load(config, &weights, held, device)?;
            warn_of_unread(&self.path, weights.unread());
            return Ok((decoder, fingerprint));
        }
        let source = HfDirectory::open(&self.path)?;
        let dir = self.path.display();
        if config.tie_word_embeddings && source.differ("model.embed_tokens.weight", "lm_head.weight") {
            // As transformers 5: what the file holds counts.
            tracing::warn!(
                "{dir}: `tie_word_embeddings` is true, but lm_head.weight is not the embedding: it is used as it is"
            );
            config.tie_word_embeddings = false;
        }
        let json = config::read_json(&self.path.join("config.json"), config::MAX_BYTES)?;
        if let Some(method) = config::quantisation_claimed(&json).filter(|_| !source.is_quantised()) {
            tracing::warn!(
                "{dir}: `quantization_config` says {method}, but no tensor is quantised: the weights are used as they \
                 are; other programs refuse such a directory or quantise it again, so remove the key"
            );
        }
        let fingerprint = Fingerprint::of_tensors(&source.fingerprinted());
        source.release();
        let decoder = Decoder::load(config, &source as &dyn TensorSource, held, device)?;
        warn_of_unread(&self.path, source.unread());
        Ok((decoder, fingerprint))
    }
}

/// An error for a directory without a config.json.
fn is_model(dir: &Path) -> Result<()> {
    if dir.join("config.json").exists() {
        return Ok(());
    }
    let error = Error::request(format!("{}: there is no config.json in it", dir.display()));
    let gguf = std::fs::read_dir(dir).ok().and_then(|mut entries| {
        entries.find_map(|entry| Some(entry.ok()?.path()).filter(|p| p.extension().is_some_and(|ext| ext == "gguf")))
    });
    Err(match gguf {
        Some(file) => error.hint(format!("pass the GGUF file itself: {}", file.display())),
        None if dir.join("adapter_config.json").exists() => {
            error.hint("this is an adapter: pass its base model as the model, and this directory as the adapter")
        }
        None => match inside(dir) {
            Some(inner) => error.hint(format!("the model is in a directory of it: pass {}", inner.display())),
            None => error.hint("a model directory holds config.json, tokenizer.json and model.safetensors"),
        },
    })
}

/// The directory of `dir` that holds a model, if there is one.
fn inside(dir: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    found.sort();
    found.into_iter().find(|path| path.join("config.json").is_file())
}

/// Tells of tensors of decoder layers that the network has no place for: a bias, a norm, more layers.
fn warn_of_unread<'a>(path: &Path, mut unread: impl Iterator<Item = &'a str>) {
    if let Some(first) = unread.next() {
        let all = counted(1 + unread.count(), "tensor");
        tracing::warn!(
            "{}: not used: {all}, the first is `{first}`; if the model computes with it, the results are not those of the \
             model",
            path.display()
        );
    }
}
