//! In which types the tensors of a written GGUF file are, in few lines. In: each tensor's name, type, and the type that
//! its rows were too short for; out: groups of tensors. Invariant: every tensor is in one group.

use crate::counted;
use crate::gguf::TensorType;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Tensors of one type, for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WrittenAs {
    /// Their type.
    #[serde(rename = "type", serialize_with = "by_name")]
    pub dtype: TensorType,
    /// How many there are.
    pub tensors: usize,
    /// Their names without the number of the layer.
    pub names: Vec<String>,
    /// The type that they would have if their rows were whole blocks of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_place_of: Option<InPlaceOf>,
}

/// A type that was not possible.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InPlaceOf {
    /// The type.
    #[serde(rename = "type", serialize_with = "by_name")]
    pub dtype: TensorType,
    /// Numbers in one of its blocks.
    pub block: usize,
    /// Numbers in a row of the tensors.
    pub rows_of: Vec<usize>,
}

/// A tensor that was written.
pub(crate) struct Written {
    pub(crate) name: String,
    pub(crate) cols: usize,
    pub(crate) dtype: TensorType,
    pub(crate) in_place_of: Option<TensorType>,
}

/// The groups, those of most tensors first.
pub(crate) fn grouped(all: &[Written]) -> Vec<WrittenAs> {
    let mut groups: BTreeMap<(String, Option<String>), (WrittenAs, BTreeSet<usize>)> = BTreeMap::new();
    for Written { name, cols, dtype, in_place_of } in all {
        let key = (format!("{dtype:?}"), in_place_of.map(|dtype| format!("{dtype:?}")));
        let (group, rows) = groups.entry(key).or_insert_with(|| {
            let in_place_of = in_place_of.map(|dtype| InPlaceOf { dtype, block: dtype.block(), rows_of: Vec::new() });
            (WrittenAs { dtype: *dtype, tensors: 0, names: Vec::new(), in_place_of }, BTreeSet::new())
        });
        group.tensors += 1;
        rows.insert(*cols);
        let short = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((_, module)) => module,
            None => name,
        };
        let short = short.strip_suffix(".weight").unwrap_or(short).to_owned();
        if !group.names.contains(&short) {
            group.names.push(short);
        }
    }
    let finished = groups.into_values().map(|(mut group, rows)| {
        if let Some(in_place_of) = &mut group.in_place_of {
            in_place_of.rows_of = rows.into_iter().collect();
        }
        group
    });
    let mut groups: Vec<WrittenAs> = finished.collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.tensors));
    groups
}

impl fmt::Display for WrittenAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.dtype, counted(self.tensors, "tensor"), self.names.join(", "))?;
        if let Some(InPlaceOf { dtype, block, rows_of }) = &self.in_place_of {
            let rows: Vec<String> = rows_of.iter().map(ToString::to_string).collect();
            write!(f, "; in place of {dtype:?}, since rows of {} are no multiple of {block}", rows.join(" and "))?;
        }
        Ok(())
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn by_name<S: Serializer>(dtype: &TensorType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{dtype:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_whose_rows_are_no_whole_blocks_are_told_with_the_reason() {
        let written =
            |name: &str, cols: usize, dtype, in_place_of| Written { name: name.into(), cols, dtype, in_place_of };
        let (small, large) = (Some(TensorType::Q4_K), Some(TensorType::Q6_K));
        let groups = grouped(&[
            written("token_embd.weight", 576, TensorType::Q8_0, large),
            written("blk.0.attn_v.weight", 576, TensorType::Q8_0, large),
            written("blk.0.attn_q.weight", 576, TensorType::Q5_0, small),
            written("blk.1.attn_q.weight", 576, TensorType::Q5_0, small),
            written("blk.1.ffn_up.weight", 1600, TensorType::Q5_0, small),
            written("blk.1.ffn_down.weight", 512, TensorType::Q4_K, None),
            written("output_norm.weight", 576, TensorType::F32, None),
        ]);
        let told: Vec<String> = groups.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "Q5_0: 3 tensors: attn_q, ffn_up; in place of Q4_K, since rows of 576 and 1600 are no multiple of 256",
                "Q8_0: 2 tensors: token_embd, attn_v; in place of Q6_K, since rows of 576 are no multiple of 256",
                "F32: 1 tensor: output_norm",
                "Q4_K: 1 tensor: ffn_down",
            ]
        );
        assert_eq!(groups.iter().map(|group| group.tensors).sum::<usize>(), 7);
        let json = serde_json::to_value(&groups[1]).unwrap();
        assert_eq!(json["type"], "Q8_0");
        assert_eq!(json["in_place_of"], serde_json::json!({"type": "Q6_K", "block": 256, "rows_of": [576]}));
    }
}
