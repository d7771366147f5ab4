//! `eraser chat`: turns of a conversation, answered as they are generated.

use crate::conversation::{Conversation, Speaker};
use crate::options::chat::ChatArgs;
use crate::progress::Terminal;
use eraser_model::Adapter;
use eraser_run::builtin::Assets;
use eraser_run::{Outcome, Problems};

/// Answers one prompt, or holds a conversation.
pub(crate) fn chat(args: &ChatArgs, json: bool) -> Outcome {
    let mut problems = Problems::default();
    let plan = args.model.plan(&mut problems);
    args.check(&mut problems);
    problems.finish(Some(()))?;
    let model = plan.load(&Assets::InCache, &mut Terminal::default())?;
    // Before anything is asked of the user.
    model.chat_template()?;
    let adapter =
        args.adapter.as_deref().map(|dir| Adapter::load(dir, &model.config, model.decoder.device())).transpose()?;
    let mut speakers = Vec::new();
    if args.compare || adapter.is_none() {
        speakers.push(Speaker::new("base", None, args));
    }
    if let Some(adapter) = &adapter {
        speakers.push(Speaker::new("hardened", Some(adapter), args));
    }
    let mut chat = Conversation { model: &model, args, json, speakers, system: args.system.clone(), turn: 0 };
    match &args.prompt {
        Some(prompt) => chat.answer(prompt)?,
        None => chat.converse()?,
    }
    Ok(())
}
