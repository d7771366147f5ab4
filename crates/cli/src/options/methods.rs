//! `eraser methods`.

use clap::Args;

/// Options of `eraser methods`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Weights are the published ones; --harm-weight, --help-weight, --align-weight and --retain-weight \
                        multiply them. The term of the retain set is there where a retain set is given. Published rates \
                        are mostly those of full fine-tuning: an adapter takes 10 to 100 times as much."
)]
pub(crate) struct MethodsArgs {}
