//! Values of a JSON object, read by type. Invariant: an error gives the whole name of the key, and what its value must
//! be.

use crate::{Error, Result};
use serde_json::{Map, Value};

/// A JSON object whose values are read by type. Messages put `prefix` before the name of a key.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) prefix: &'a str,
}

impl<'a> Keys<'a> {
    /// The value; None where the key is absent or its value is null.
    pub(super) fn get(self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The whole name of a key.
    pub(super) fn named(self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn typed<T>(self, key: &str, want: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.wrong(key, want, value))).transpose()
    }

    pub(super) fn wrong(self, key: &str, want: &str, value: &Value) -> Error {
        let mut text = value.to_string();
        if text.chars().count() > 40 {
            text = text.chars().take(40).chain("...".chars()).collect();
        }
        Error::request(format!("`{}{key}` must be {want}, is {text}", self.prefix))
    }

    pub(super) fn missing(self, key: &str) -> Error {
        Error::request(format!("`{}{key}` is missing", self.prefix))
            .hint("the model directory's config.json must be the one published with the weights")
    }

    pub(super) fn string(self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn bool(self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// True or false; false where the key is absent.
    pub(super) fn flag(self, key: &str) -> Result<bool> {
        Ok(self.bool(key)?.unwrap_or(false))
    }

    pub(super) fn number(self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn number_f32(self, key: &str) -> Result<Option<f32>> {
        Ok(self.number(key)?.map(|x| x as f32))
    }

    /// A size: None where it is null, `absent` where the key is absent.
    pub(super) fn size_or(self, key: &str, absent: Option<usize>) -> Result<Option<usize>> {
        if self.map.contains_key(key) { self.optional_size(key) } else { Ok(absent) }
    }

    pub(super) fn numbers(self, key: &str) -> Result<Option<Vec<f32>>> {
        let read = |value: &Value| value.as_array()?.iter().map(|x| x.as_f64().map(|x| x as f32)).collect();
        self.typed(key, "a list of numbers", read)
    }

    pub(super) fn optional_size(self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a non-negative integer", |value| usize::try_from(value.as_u64()?).ok())
    }

    pub(super) fn names(self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let read = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        self.typed(key, "a list of names", read)
    }

    pub(super) fn object<'b>(self, key: &str, prefix: &'b str) -> Result<Option<Keys<'b>>>
    where
        'a: 'b,
    {
        Ok(self.typed(key, "an object", Value::as_object)?.map(|map| Keys { map, prefix }))
    }

    /// Which of the `layers` layers have the sliding window, as `layer_types` says.
    pub(super) fn windowed(self, layers: usize) -> Result<Option<Vec<bool>>> {
        self.windowed_by("layer_types", layers)
    }

    /// The same of a list under another key.
    pub(super) fn windowed_by(self, key: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        let Some(kinds) = self.names(key)? else { return Ok(None) };
        // Files of earlier versions of transformers say `attention` for a layer without a window.
        let known = |kind: &str| matches!(kind, "full_attention" | "attention" | "sliding_attention");
        if let Some(other) = kinds.iter().find(|kind| !known(kind)) {
            let what = match *other {
                "mamba" | "linear_attention" => ": a model with layers of other kinds than attention",
                _ => "",
            };
            return Err(Error::request(format!("`{}{key}`: {other} is not supported{what}", self.prefix))
                .hint("layers can be full_attention or sliding_attention"));
        }
        if kinds.len() != layers {
            let (key, n) = (self.named(key), kinds.len());
            return Err(Error::request(format!("`{key}` has {n} names for {layers} layers"))
                .hint("it must name the kind of each layer of `num_hidden_layers`"));
        }
        Ok(Some(kinds.iter().map(|kind| *kind == "sliding_attention").collect()))
    }
}
