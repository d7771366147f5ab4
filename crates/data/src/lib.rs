//! Records and sets, prompt noise, sample encoding, packing, random streams.

pub mod encode;
pub mod files;
pub mod noise;
pub mod pack;
pub mod record;
pub mod streams;

pub use encode::{PromptTemplate, Sample, encode};
pub use noise::Noise;
pub use pack::Batch;
pub use record::{Question, Record, read_questions, read_set};
pub use streams::stream;
