//! A random two-layer Llama in Hugging Face form, small enough to train in milliseconds.

use std::fmt::Write as _;
use std::path::Path;

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 48;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const VOCAB: usize = 257;

/// Writes the model into `dir`.
pub fn write(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let config = format!(
        "{{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":{HIDDEN},\
         \"intermediate_size\":{INTERMEDIATE},\"num_hidden_layers\":{LAYERS},\"num_attention_heads\":{HEADS},\
         \"num_key_value_heads\":{KV_HEADS},\"vocab_size\":{VOCAB},\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\
         \"max_position_embeddings\":512,\"tie_word_embeddings\":true,\"eos_token_id\":256,\"hidden_act\":\"silu\",\
         \"torch_dtype\":\"float32\"}}"
    );
    std::fs::write(dir.join("config.json"), config).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer()).unwrap();
    std::fs::write(dir.join("tokenizer_config.json"), "{\"eos_token\":\"<|end|>\"}").unwrap();
    let template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}\
                    {% if add_generation_prompt %}assistant: {% endif %}";
    std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
    std::fs::write(dir.join("model.safetensors"), weights()).unwrap();
}

/// One token a byte, and `<|end|>`.
fn tokenizer() -> String {
    // The alphabet of byte-level BPE: printable bytes stand for themselves, the others for characters from 256 on.
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256;
    let mut vocab = String::new();
    for byte in 0..=255_u8 {
        let code = if printable(byte) {
            u32::from(byte)
        } else {
            next += 1;
            next - 1
        };
        let letter = serde_json::Value::from(char::from_u32(code).unwrap().to_string());
        write!(vocab, "{letter}:{byte},").unwrap();
    }
    vocab.pop();
    format!(
        "{{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{{\"id\":256,\"content\":\"<|end|>\",\
         \"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}}],\
         \"normalizer\":null,\"pre_tokenizer\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\
         \"use_regex\":false}},\"post_processor\":null,\"decoder\":{{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\
         \"trim_offsets\":true,\"use_regex\":false}},\"model\":{{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\
         \"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\
         \"vocab\":{{{vocab}}},\"merges\":[]}}}}"
    )
}

/// Every tensor, drawn from a linear congruential generator, as safetensors.
fn weights() -> Vec<u8> {
    let head = HIDDEN / HEADS;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![KV_HEADS * head, HIDDEN]),
            ("self_attn.v_proj", vec![KV_HEADS * head, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));

    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut state = 1_u32;
    for (name, shape) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let unit = f32::from((state >> 16) as u16) / 65_536.0 - 0.5;
            let value = if shape.len() == 1 { 1.0 + 0.1 * unit } else { 0.6 * unit };
            data.extend(value.to_le_bytes());
        }
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}
