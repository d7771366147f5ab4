use super::*;
use crate::{ModelConfig, gguf::tests::Builder};
use proptest::prelude::*;
use serde_json::json;

const CPU: &Device = &Device::Cpu;

fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, CPU).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn config(family: &str) -> ModelConfig {
    ModelConfig::from_hf_json(&json!({"model_type": family, "hidden_size": 4, "num_attention_heads": 1,
        "num_hidden_layers": 1, "intermediate_size": 4, "vocab_size": 2}))
    .unwrap()
}

/// What llama.cpp's converter does to q and k: `reshape(heads, 2, head_dim / 2, d).swapaxes(1, 2)`.
fn interleave(rows: &[[f32; 4]], head_dim: usize) -> Vec<f32> {
    let head =
        |rows: &[[f32; 4]]| (0..head_dim).flat_map(|row| rows[row % 2 * (head_dim / 2) + row / 2]).collect::<Vec<_>>();
    rows.chunks(head_dim).flat_map(head).collect()
}

#[test]
fn gguf_tensors_come_in_hugging_face_layout() {
    let rows: Vec<[f32; 4]> = (0..4).map(|i| [i as f32, 0.0, 1.0, 2.0]).collect();
    let file = Builder::new()
        .tensor("blk.0.attn_q.weight", &[4, 4], &interleave(&rows, 4))
        .tensor("blk.0.attn_v.weight", &[4, 4], &interleave(&rows, 4))
        .tensor("blk.0.attn_q.bias", &[4], &[1.0, 2.0, 3.0, 4.0]);
    let (_dir, file) = file.open();
    let q = "model.layers.0.self_attn.q_proj.weight";
    let read = |family: &str, name: &str, shape: &[usize]| {
        flat(&GgufWeights::new(&file, &config(family)).tensor(name, shape, DType::F32, CPU).unwrap())
    };
    assert_eq!(read("llama", q, &[4, 4]), rows.concat());
    assert_eq!(read("mistral", q, &[4, 4]), rows.concat());
    assert_eq!(read("qwen2", q, &[4, 4]), interleave(&rows, 4));
    assert_eq!(read("llama", "model.layers.0.self_attn.v_proj.weight", &[4, 4]), interleave(&rows, 4));
    assert_eq!(read("qwen2", "model.layers.0.self_attn.q_proj.bias", &[4]), [1.0, 2.0, 3.0, 4.0]);

    let weights = GgufWeights::new(&file, &config("llama"));
    weights.tensor(q, &[4, 4], DType::F32, CPU).unwrap();
    assert_eq!(weights.unread().collect::<Vec<_>>(), ["blk.0.attn_v.weight", "blk.0.attn_q.bias"]);
    assert!(weights.contains(q) && !weights.contains("lm_head.weight") && !weights.contains("unheard.of"));
    for (name, shape, wanted) in [
        (q, &[2, 8][..], "shape"),
        ("lm_head.weight", &[2, 4], "`output.weight` is missing"),
        ("unheard.of", &[1], "`unheard.of` is missing"),
    ] {
        let error = weights.tensor(name, shape, DType::F32, CPU).unwrap_err();
        assert!(error.to_string().contains("m.gguf: ") && error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn saved_tensors_read_back_in_every_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let values = [0.0, 1.5, -2.25, 65504.0, 1e-3, -0.0];
    let all = tensor(&values, &[3, 2]);
    let tensors = vec![
        ("a".to_owned(), all.clone()),
        ("row".to_owned(), all.narrow(0, 1, 1).unwrap()),
        ("turned".to_owned(), all.t().unwrap()),
        ("half".to_owned(), all.to_dtype(DType::F16).unwrap()),
        ("double".to_owned(), all.to_dtype(DType::F64).unwrap()),
    ];
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        save_safetensors(&path, &tensors, dtype).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        save_safetensors(&path, &tensors, dtype).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "the same bytes again");
        let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let source = HfDirectory::open(dir.path()).unwrap();
        for (name, saved) in &tensors {
            for read_as in [DType::F32, DType::F16, DType::BF16] {
                let expected = flat(&saved.to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap());
                let expected = flat(&tensor(&expected, saved.dims()).to_dtype(read_as).unwrap());
                let read = source.tensor(name, saved.dims(), read_as, CPU).unwrap();
                assert_eq!((read.dtype(), flat(&read)), (read_as, expected), "{name} {dtype:?} {read_as:?}");
            }
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing but the file is left");
    assert!(save_safetensors(&path, &tensors, DType::U8).is_err());
    assert!(save_safetensors(&dir.path().join("absent/m"), &tensors, DType::F32).is_err());
}

#[cfg(unix)]
#[test]
fn saved_files_have_an_ordinary_mode() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    save_safetensors(&dir.path().join("m"), &[], DType::F32).unwrap();
    std::fs::write(dir.path().join("ordinary"), "").unwrap();
    assert_eq!(mode("m"), mode("ordinary"));
}

#[test]
fn shards_are_found_and_their_faults_named() {
    let dir = tempfile::tempdir().unwrap();
    let shard = |name: &str, tensor_name: &str| {
        save_safetensors(&dir.path().join(name), &[(tensor_name.to_owned(), tensor(&[1.0], &[1]))], DType::F32)
            .unwrap();
    };
    shard("one.safetensors", "a");
    shard("two.safetensors", "b");
    let open = |index: &str| {
        std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        HfDirectory::open(dir.path())
    };
    let source = open(r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#).unwrap();
    assert!(source.contains("a") && source.contains("b"));
    assert_eq!(source.fingerprinted().len(), 2);
    let error = source.tensor("a", &[2], DType::F32, CPU).unwrap_err().to_string();
    assert!(error.contains("one.safetensors: tensor `a` has shape [1]"), "{error}");
    for (index, wanted) in [
        ("{}", "`weight_map`"),
        (r#"{"weight_map": {"a": 1}}"#, "`weight_map.a`"),
        (r#"{"weight_map": {"a": "../one.safetensors"}}"#, "`weight_map.a`"),
        (r#"{"weight_map": {"a": "/etc/passwd"}}"#, "`weight_map.a`"),
        (r#"{"weight_map": {"a": ".."}}"#, "`weight_map.a`"),
        (r#"{"weight_map": {"a": ""}}"#, "`weight_map.a`"),
        (r#"{"weight_map": {"a": "sub/one.safetensors"}}"#, "`weight_map.a`"),
        (r#"{"weight_map": {"a": "absent.safetensors"}}"#, "absent.safetensors"),
        // An index that names itself is not a way around.
        (r#"{"weight_map": {"a": "model.safetensors.index.json"}}"#, "not a valid safetensors file"),
        (r#"{"weight_map": {"b": "one.safetensors"}}"#, "one.safetensors: tensor `b` is missing"),
    ] {
        let error = open(index).unwrap_err();
        assert!(error.to_string().contains(wanted), "{index}: {error}");
        assert!(!error.hints().is_empty() || wanted.starts_with("`weight_map"), "{error}");
    }
}

/// The first missing shard was told as a file that is not there; how many were missing was told one by one.
#[test]
fn missing_shards_are_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let name = |i: usize| format!("model-0000{i}-of-00007.safetensors");
    let map: serde_json::Map<_, _> = (1..8).map(|i| (format!("t{i}"), json!(name(i)))).collect();
    std::fs::write(dir.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    let told = |present: &[usize]| {
        for i in present {
            let tensors = [(format!("t{i}"), tensor(&[1.0], &[1]))];
            save_safetensors(&dir.path().join(name(*i)), &tensors, DType::F32).unwrap();
        }
        HfDirectory::open(dir.path()).map(|_| ()).map_err(|e| e.to_string())
    };
    let error = told(&[1]).unwrap_err();
    assert!(error.contains("6 of the 7 files that it lists are missing: ") && error.contains(&name(2)), "{error}");
    assert!(error.ends_with(".."), "{error}");
    let error = told(&[2, 4, 5, 6, 7]).unwrap_err();
    assert!(error.ends_with(&format!("1 of the 7 files that it lists is missing: {}", name(3))), "{error}");
    told(&[3]).unwrap();
    assert_eq!(HfDirectory::files(dir.path()).unwrap().len(), 7);
}

#[cfg(unix)]
#[test]
fn a_link_to_weights_that_are_gone_is_told_as_that() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("../../blobs/0123", dir.path().join("model.safetensors")).unwrap();
    let error = HfDirectory::open(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("model.safetensors: it is a link to ../../blobs/0123, which is not there"), "{error}");
}

/// A clone without Git LFS was told as a damaged file.
#[test]
fn a_pointer_of_git_lfs_in_place_of_weights_is_told_as_that() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 269060552\n";
    let error = open_bytes(pointer).unwrap_err();
    assert!(error.to_string().contains("model.safetensors: it is a pointer of Git LFS"), "{error}");
    assert!(error.hints()[0].contains("git lfs pull"), "{error:?}");
    let dir = tempfile::tempdir().unwrap();
    for name in ["m.gguf", "config.json"] {
        std::fs::write(dir.path().join(name), pointer).unwrap();
    }
    let error = crate::gguf::GgufFile::open(&dir.path().join("m.gguf")).unwrap_err();
    assert!(error.to_string().contains("m.gguf: it is a pointer"), "{error}");
    let error = ModelConfig::from_hf_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("config.json: it is a pointer"), "{error}");
}

#[test]
fn directories_without_weights_say_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    for (file, hint) in [
        ("config.json", "download"),
        ("training_args.bin", "download"),
        ("adapter_model.safetensors", "adapter"),
        ("pytorch_model.bin", "convert"),
        ("pytorch_model-00001-of-00002.bin", "convert"),
        ("consolidated.00.pth", "convert"),
        ("consolidated.safetensors", "publisher's own names"),
        ("model-00001-of-00002.safetensors", "must list it"),
        ("m-Q8_0.gguf", "m-Q8_0.gguf"),
        ("tf_model.h5", "of another program"),
    ] {
        std::fs::write(dir.path().join(file), "").unwrap();
        let error = HfDirectory::open(dir.path()).unwrap_err();
        assert!(error.hints()[0].contains(hint), "{error:?}");
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    assert!(HfDirectory::open(&dir.path().join("absent")).unwrap_err().to_string().contains("absent"));
}

fn open_bytes(bytes: &[u8]) -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let source = HfDirectory::open(dir.path())?;
    for stored in source.fingerprinted() {
        let _ = source.tensor(stored.name, stored.shape, DType::F32, CPU);
    }
    Ok(())
}

fn safetensors_with(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn hostile_safetensors_are_errors() {
    let entry = |shape: &str, offsets: &str| {
        safetensors_with(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), 8)
    };
    assert!(open_bytes(&entry("[2]", "[0,8]")).is_ok());
    for bytes in [
        Vec::new(),
        (1u64 << 63).to_le_bytes().to_vec(),
        u64::MAX.to_le_bytes().to_vec(),
        safetensors_with("{", 0),
        safetensors_with(&"[".repeat(100_000), 0),
        entry("[2]", "[0,9223372036854775808]"),
        entry("[2]", "[8,0]"),
        entry("[3]", "[0,8]"),
        entry("[9223372036854775808,4]", "[0,8]"),
        entry("[2]", "[0,4]"),
        entry("[-2]", "[0,8]"),
    ] {
        let error = open_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: "), "{error}");
    }
}

proptest! {
    #[test]
    fn mutated_safetensors_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(),
    ) {
        let header = r#"{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[],"data_offsets":[8,10]}}"#;
        let mut bytes = safetensors_with(header, 10);
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = open_bytes(&bytes);
        let _ = open_bytes(&bytes[..cut.index(bytes.len())]);
    }
}

#[test]
fn eight_bit_floats_come_expanded_by_their_scales() {
    use safetensors::{Dtype, tensor::TensorView};
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = vec![0x38, 0xb8, 0x40, 0x00, 0x08, 0x7e];
    let floats = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let (one, rows) = (floats(&[0.5]), floats(&[1.0, 2.0]));
    let matrix = TensorView::new(Dtype::F8_E4M3, vec![2, 3], &bytes).unwrap();
    let name = |layer: usize, end: &str| format!("model.layers.{layer}.mlp.up_proj.weight{end}");
    let tensors = [
        (name(0, ""), matrix.clone()),
        (name(0, "_scale_inv"), TensorView::new(Dtype::F32, vec![1, 1], &one).unwrap()),
        (name(1, ""), matrix.clone()),
        (name(1, "_scale"), TensorView::new(Dtype::F32, vec![2, 1], &rows).unwrap()),
        (name(2, ""), matrix),
        ("model.layers.0.mlp.up_proj.input_scale".to_owned(), TensorView::new(Dtype::F32, vec![1], &one).unwrap()),
    ];
    safetensors::serialize_to_file(tensors, None, &dir.path().join("model.safetensors")).unwrap();
    let source = HfDirectory::open(dir.path()).unwrap();
    let read = |layer: usize| source.tensor(&name(layer, ""), &[2, 3], DType::F32, CPU);
    assert_eq!(flat(&read(0).unwrap()), [0.5, -0.5, 1.0, 0.0, 0.015_625 / 2.0, 224.0]);
    assert_eq!(flat(&read(1).unwrap()), [1.0, -1.0, 2.0, 0.0, 0.031_25, 896.0]);
    let error = read(2).unwrap_err();
    assert!(error.to_string().contains("without a `model.layers.2.mlp.up_proj.weight_scale_inv`"), "{error}");
    assert_eq!(source.unread().count(), 0, "scales are read with their matrix, those of activations never");
}
