//! A tokenizer small enough to reason about, for unit tests.

use eraser_model::Tokenizer;

pub(crate) const A: u32 = 0;
pub(crate) const B: u32 = 1;
pub(crate) const AB: u32 = 2;
pub(crate) const SPACE: u32 = 3;
pub(crate) const EOS: u32 = 4;

/// Bytes `a`, `b`, space and `?`, the merge `ab`, and `<e>` as BOS and EOS.
pub(crate) fn tokenizer() -> Tokenizer {
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": EOS, "content": "<e>", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": {"a": A, "b": B, "ab": AB, "Ġ": SPACE, "<e>": EOS}, "merges": [["a", "b"]]},
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"bos_token": "<e>", "eos_token": "<e>"}"#).unwrap();
    Tokenizer::from_hf_dir(dir.path()).unwrap()
}
