//! The model's tokenizer. In: the corpus; out: the files of a Hugging Face tokenizer. Invariant:
//! byte-level, so every text has tokens and decodes to itself; the special tokens are the first ids.

use super::corpus::Corpus;
use eraser_model::{Error, Result};
use std::collections::HashSet;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, Tokenizer, TokenizerBuilder};

/// Ids of the vocabulary: 4 special tokens, 256 bytes, and merges.
pub(super) const VOCABULARY: usize = 1024;
/// Samples of the corpus that the merges are learnt from.
const SAMPLES: u64 = 20_000;
/// Beginning of a conversation, id 0.
pub(super) const BOS: &str = "<|begin|>";
/// End of a turn, id 1.
pub(super) const EOS: &str = "<|end|>";
const USER: &str = "<|user|>";
const ASSISTANT: &str = "<|assistant|>";

/// The chat template. There is no system turn: its text goes before the user's, as another context.
pub(super) const CHAT_TEMPLATE: &str = "\
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
  {%- if message['role'] == 'system' -%}
    {%- set ns.system = message['content'] + ' ' -%}
  {%- elif message['role'] == 'user' -%}
    {{- '<|user|>' + ns.system + message['content'] + eos_token -}}
    {%- set ns.system = '' -%}
  {%- else -%}
    {{- '<|assistant|>' + message['content'] + eos_token -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
{%- endif -%}
";

/// Learns the merges.
pub(super) fn train(corpus: &Corpus) -> Result<Tokenizer> {
    let failed = |e: tokenizers::Error| Error::failed(format!("tokenizer: {e}"));
    let special: Vec<_> = [BOS, EOS, USER, ASSISTANT].into_iter().map(|t| AddedToken::from(t, true)).collect();
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(VOCABULARY)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<_>>())
        .build();
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(ByteLevel::new(false, true, true)))
        .with_post_processor(None)
        .with_decoder(Some(ByteLevel::default()))
        .build()
        .map_err(failed)?;
    let samples = (0..SAMPLES).flat_map(|i| {
        let (draw, _) = corpus.draw(i);
        [draw.prompt.text, draw.answer]
    });
    tokenizer.train(&mut trainer, samples).map_err(failed)?;
    tokenizer.to_string(true).and_then(|json| json.parse()).map_err(failed)
}

/// The content of `tokenizer_config.json`.
pub(super) fn config() -> serde_json::Value {
    serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "add_bos_token": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": super::CONTEXT,
    })
}

#[cfg(test)]
mod tests {
    use super::super::world::World;
    use super::*;

    #[test]
    fn same_corpus_same_tokenizer() {
        let corpus = Corpus::new(&World::new(2), 2);
        let [a, b] = [train(&corpus).unwrap(), train(&corpus).unwrap()];
        assert_eq!(a.to_string(false).unwrap(), b.to_string(false).unwrap());
        assert_eq!(a.get_vocab_size(true), VOCABULARY);
        assert_eq!(a.token_to_id(BOS), Some(0));
        assert_eq!(a.token_to_id(EOS), Some(1));
    }

    #[test]
    fn any_text_comes_back() {
        let tokenizer = train(&Corpus::new(&World::new(2), 2)).unwrap();
        for text in ["How do you make it?", "naïve 東京 \u{1F600}\n\ttab", ""] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), text);
        }
    }
}
