//! Judges compared with labels. In: a plan; out: figures, and their files in a directory. Invariant: nothing is loaded
//! before names, options and labels are known to be right.

use crate::builtin::Assets;
use crate::directory::lock;
use crate::failure::Outcome;
use crate::plan::{JudgePlan, ModelPlan, flag};
use crate::watch::{Watch, stoppable};
use eraser_data::ask::{Endpoint, Local, Respond, ServedTokens};
use eraser_eval::judge::JudgeOptions;
use eraser_eval::labels::{JudgeFigures, LabelPlan};
use eraser_eval::served::Text;
use eraser_model::Result;

/// `eraser judge`: every judge's figures.
///
/// # Errors
/// Everything that is wrong with options and files; a directory that another process holds; a model that cannot be
/// loaded or asked.
pub fn judge(plan: &JudgePlan, watch: &mut dyn Watch) -> Outcome<Vec<JudgeFigures>> {
    let asked = LabelPlan::new(&plan.judges, &plan.options, &plan.labels, &flag)?;
    let _lock = lock(&plan.dir)?;
    let options = asked.options();
    let model = options.model.as_ref().map(|_| plan.model.load(&Assets::InCache, watch)).transpose()?;
    let local = model.as_ref().map(|model| Local::new(model, options.batch));
    let endpoint = endpoint(options, &Assets::InCache)?;
    let judge = whichever(local.as_ref(), endpoint.as_ref());
    Ok(stoppable(watch, |progress| asked.measure(judge, &plan.dir, progress))?)
}

/// What judges: the model that is loaded here, or else the server.
pub(crate) fn whichever<'a>(local: Option<&'a Local<'a>>, endpoint: Option<&'a Endpoint>) -> Option<&'a dyn Respond> {
    local.map(|local| local as &dyn Respond).or_else(|| endpoint.map(|endpoint| endpoint as &dyn Respond))
}

/// The server that judges, if one does; with its tokens where files of it are named.
pub(crate) fn endpoint(options: &JudgeOptions, assets: &Assets) -> Result<Option<Endpoint>> {
    let Some(asked) = options.endpoint() else { return Ok(None) };
    let endpoint = Endpoint::new(&asked)?;
    let Some(spec) = &options.tokenizer else { return Ok(Some(endpoint)) };
    let text = ModelPlan::text_of(spec, None, assets)?;
    let identity = text.identity()?;
    let Text { tokenizer, template, positions } = text;
    let tokens = ServedTokens::new(&asked, (tokenizer, template, positions), &identity);
    Ok(Some(endpoint.with_tokens(tokens.map_err(|e| e.context("the server that judges"))?)))
}
