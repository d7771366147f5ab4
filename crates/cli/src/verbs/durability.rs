//! `eraser durability`: is the knowledge gone, or only hidden?

use crate::errors::again;
use crate::options::durability::DurabilityArgs;
use crate::output;
use crate::progress::Terminal;
use eraser_run::{DurabilityOptions, Outcome, durability_table};

/// Measures, and prints the table.
pub(crate) fn durability(args: &DurabilityArgs, json: bool) -> Outcome {
    let options = DurabilityOptions {
        variants: args.variant.clone(),
        steps: args.steps,
        lr: args.lr,
        pairs: args.pairs,
        limit: args.limit,
        max_new_tokens: args.max_new_tokens,
        force: args.force,
    };
    let mut watch = Terminal::default();
    let result = eraser_run::durability(&args.run, &options, &mut watch);
    let (results, written) = watch.finish(result).map_err(|f| f.on_interrupt(again(args.force)))?;
    if json {
        output::json(&results)?;
    } else {
        output::text(&durability_table(&args.run)?)?;
        output::line(&format!("\nreport: {}", written.html.display()))?;
    }
    Ok(())
}
