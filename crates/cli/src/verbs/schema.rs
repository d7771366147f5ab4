//! `eraser schema`: the JSON schema of run files, for editors.

use crate::options::schema::meaning;
use crate::output;
use eraser_model::Error;
use eraser_run::Outcome;
use eraser_run::plan::schema;

/// Prints it.
pub(crate) fn print() -> Outcome {
    let text = serde_json::to_string_pretty(&schema(&meaning));
    Ok(output::line(&text.map_err(|e| Error::failed(format!("the schema: {e}")))?)?)
}
