use super::*;
use proptest::prelude::*;

/// Writes GGUF files for tests, well-formed or not.
#[derive(Clone)]
pub(crate) struct Builder {
    pub(crate) version: u32,
    metadata: Vec<Vec<u8>>,
    tensors: Vec<(String, Vec<u64>, u32, u64)>,
    data: Vec<u8>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new(), data: Vec::new() }
    }

    /// A value of any type, given its bytes.
    pub(crate) fn raw(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.metadata.push([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, 8, &text(value))
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, 6, &value.to_le_bytes())
    }

    pub(crate) fn strings(self, key: &str, values: &[&str]) -> Self {
        let mut bytes = [&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        bytes.extend(values.iter().flat_map(|value| text(value)));
        self.raw(key, 9, &bytes)
    }

    /// An f32 tensor, its shape slowest dimension first.
    pub(crate) fn tensor(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let dims: Vec<u64> = shape.iter().rev().map(|n| *n as u64).collect();
        let offset = self.data.len().next_multiple_of(32) as u64;
        let mut this = self.entry(name, &dims, 0, offset);
        this.data.resize(offset as usize, 0);
        this.data.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        this
    }

    /// A tensor's entry alone, in the file's own order of dimensions.
    pub(crate) fn entry(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors.push((name.to_owned(), dims.to_vec(), kind, offset));
        self
    }

    pub(crate) fn build(self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        bytes.extend(self.metadata.concat());
        for (name, dims, kind, offset) in self.tensors {
            bytes.extend(text(&name));
            bytes.extend((dims.len() as u32).to_le_bytes());
            bytes.extend(dims.iter().flat_map(|n| n.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(self.data);
        bytes
    }

    /// The file, open; its directory goes when the test ends.
    pub(crate) fn open(self) -> (tempfile::TempDir, GgufFile) {
        open(&self.build()).unwrap()
    }
}

fn text(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}

fn open(bytes: &[u8]) -> Result<(tempfile::TempDir, GgufFile)> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    GgufFile::open(&path).map(|file| (dir, file))
}

fn small() -> Builder {
    Builder::new()
        .string("general.architecture", "llama")
        .u32("n", 7)
        .f32("x", 0.5)
        .raw("flag", 7, &[1])
        .raw("negative", 5, &(-3i32).to_le_bytes())
        .strings("words", &["a", "", "bc"])
        .raw("numbers", 9, &[&6u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0; 4], &1f32.to_le_bytes()].concat())
        .raw("signs", 9, &[&1u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[255, 1]].concat())
        .tensor("a", &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .tensor("b", &[1], &[9.0])
}

#[test]
fn values_are_read_by_type_and_a_wrong_type_names_the_key() {
    for version in [2, 3] {
        let (_dir, file) = Builder { version, ..small() }.open();
        assert_eq!(file.string("general.architecture").unwrap(), Some("llama"));
        assert_eq!(file.string("absent").unwrap(), None);
        assert_eq!((file.u32("n").unwrap(), file.u64("n").unwrap()), (Some(7), Some(7)));
        assert_eq!(file.f32("x").unwrap(), Some(0.5));
        assert_eq!(file.bool("flag").unwrap(), Some(true));
        assert_eq!(file.metadata("negative"), Some(&Value::Signed(-3)));
        assert_eq!(file.string_array("words").unwrap(), Some(vec!["a", "", "bc"]));
        assert_eq!(file.f32_array("numbers").unwrap(), Some(vec![0.0, 1.0]));
        assert_eq!(file.i32_array("signs").unwrap(), Some(vec![-1, 1]));
        let tensor = file.tensor("a").unwrap();
        assert_eq!((tensor.shape.as_slice(), tensor.elements()), (&[2, 3][..], 6));
        assert_eq!(dequantize(tensor.dtype, file.data(tensor)), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        for error in [
            file.string("n").unwrap_err(),
            file.u64("negative").unwrap_err(),
            file.f32_array("words").unwrap_err(),
            file.missing("absent"),
        ] {
            assert!(error.to_string().contains("m.gguf: metadata key `"), "{error}");
            assert!(!error.hints().is_empty());
        }
    }
}

#[test]
fn hostile_files_are_errors_that_name_the_place() {
    let huge = 1u64 << 63;
    let array = |element: u32, len: u64| [&element.to_le_bytes()[..], &len.to_le_bytes()].concat();
    let tensor = |dims: &[u64], kind, offset| Builder::new().entry("t", dims, kind, offset).build();
    let count = |at: usize, n: u64| {
        let mut bytes = small().build();
        bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
        bytes
    };
    let alignment = |n: u32| Builder::new().u32("general.alignment", n).build();
    for (bytes, wanted) in [
        (Vec::new(), "not a GGUF file"),
        (b"GGML\x03\0\0\0".to_vec(), "not a GGUF file"),
        (b"GGUF\x03\0\0\0".to_vec(), "needs 8 bytes"),
        (Builder { version: 1, ..small() }.build(), "version 1"),
        (Builder { version: 4, ..small() }.build(), "version 4"),
        (Builder { version: 3 << 24, ..small() }.build(), "big-endian"),
        (count(8, huge), "number of tensors"),
        (count(16, huge), "number of metadata keys"),
        (Builder::new().raw("k", 8, &huge.to_le_bytes()).build(), "metadata key `k`: string"),
        (Builder::new().raw("k", 9, &array(8, huge)).build(), "metadata key `k`"),
        (Builder::new().raw("k", 9, &array(4, huge / 4)).build(), "metadata key `k`"),
        (Builder::new().raw("k", 9, &array(9, 1 << 40)).build(), "metadata key `k`: an array of arrays"),
        (Builder::new().raw("k", 77, &[]).build(), "metadata key `k`: unknown value type 77"),
        (Builder::new().raw("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).build(), "metadata key `k`: string is not UTF-8"),
        (Builder::new().u32("k", 1).u32("k", 1).build(), "metadata key `k` appears twice"),
        (Builder::new().raw("split.count", 2, &[2, 0]).build(), "one of 2 parts"),
        (alignment(0), "general.alignment"),
        (alignment(24), "general.alignment"),
        (alignment(1 << 31), "general.alignment"),
        (small().tensor("a", &[1], &[0.0]).build(), "tensor `a` appears twice"),
        (tensor(&[4], 0, huge), "tensor `t`"),
        (tensor(&[4], 0, u64::MAX - 31), "tensor `t`"),
        (tensor(&[4], 0, 4), "tensor `t`: offset 4"),
        (tensor(&[huge, 4], 0, 0), "tensor `t`: a dimension"),
        (tensor(&[0], 0, 0), "tensor `t`: a dimension"),
        (tensor(&[1 << 40, 1 << 40], 0, 0), "tensor `t`: shape"),
        (tensor(&[1 << 40], 0, 0), "tensor `t`: its"),
        (tensor(&[1; 5], 0, 0), "tensor `t`: 5 dimensions"),
        (tensor(&[33], 2, 0), "tensor `t`: rows of 33"),
        (tensor(&[32], 10, 0), "tensor `t`: tensor type Q2_K"),
        (tensor(&[32], 99, 0), "tensor `t`: unknown tensor type 99"),
        (small().entry("c", &[1], 0, 0).build(), "overlap"),
        (Builder::new().entry("", &[1], 0, 0).build(), "name of 0 bytes"),
        (Builder::new().entry(&"n".repeat(256), &[1], 0, 0).build(), "name of 256 bytes"),
    ] {
        let error = open(&bytes).unwrap_err();
        assert!(error.to_string().contains("m.gguf: ") && error.to_string().contains(wanted), "{wanted}: {error}");
        assert!(!error.hints().is_empty(), "no hint: {error}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = small().build();
    for end in 0..bytes.len() {
        assert!(Header::parse(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
    }
}

#[test]
fn values_equal_the_reference_bit_for_bit() {
    let fixture: serde_json::Value = serde_json::from_str(include_str!("../../tests/fixtures/weights.json")).unwrap();
    let types = [
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q4_K,
        TensorType::Q5_K,
        TensorType::Q6_K,
    ];
    for (dtype, case) in types.into_iter().zip(fixture["quantised"].as_array().unwrap()) {
        assert_eq!(format!("{dtype:?}"), case["type"].as_str().unwrap());
        let values = dequantize(dtype, &unhex(&case["bytes"]));
        let expected = unhex(&case["values"]);
        let expected: Vec<u32> = expected.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let bits: Vec<u32> = values.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, expected, "{dtype:?}");
    }
}

/// The bytes of a string of hexadecimal digits.
pub(crate) fn unhex(value: &serde_json::Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Opens and reads everything; an error is fine, a panic is not.
fn exercise(bytes: &[u8]) {
    let Ok((_dir, file)) = open(bytes) else { return };
    for key in file.all_metadata().keys() {
        let _ = (file.string_array(key), file.f32_array(key), file.i32_array(key), file.u64(key), file.f32(key));
    }
    for tensor in file.tensors() {
        assert_eq!(dequantize(tensor.dtype, file.data(tensor)).len(), tensor.elements());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        exercise(&bytes);
        exercise(&[b"GGUF\x03\0\0\0", &bytes[..]].concat());
    }

    #[test]
    fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = small().build();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        exercise(&bytes);
    }
}
