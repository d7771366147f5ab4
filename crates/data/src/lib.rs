#![doc = include_str!("../README.md")]

mod answer_forms;
pub mod ask;
pub mod column;
pub mod encode;
pub mod files;
pub mod journal;
pub mod noise;
pub mod pack;
pub mod pairs;
mod parquet;
pub mod prepare;
pub mod progress;
pub mod question;
pub mod ranges;
pub mod record;
pub mod refusal;
pub mod refusal_texts;
mod row;
pub mod rows;
pub mod sampling;
pub mod set_name;
pub mod shard;
pub mod streams;
pub mod surroundings;
#[cfg(test)]
mod testing;
mod texts;

pub use column::{CONTEXT_STRING, besides, find_column, no_column};
pub use encode::{Beginning, PromptTemplate, Sample, encode, end_of_answer};
pub use journal::{Entry, Journal};
pub use noise::Noise;
pub use pack::{Batch, Scored};
pub use pairs::{Pair, read_pairs};
pub use progress::Progress;
pub use question::{Question, columns, read_questions};
pub use ranges::{Ranges, WrongValue};
pub use record::{Record, read_set, write_set};
pub use refusal_texts::RefusalTexts;
pub use row::Row;
pub use rows::{check_quotes, read_rows, read_text};
pub use sampling::Sampling;
pub use set_name::SetName;
pub use shard::{Dealt, Shard, Share};
pub use streams::stream;
pub use surroundings::{Benign, NoiseKind, Surrounded, Surroundings};
pub use texts::read_texts;
