//! The development commands: `cargo xtask COMMAND`. In: arguments; out: files in the repository. Invariant: every file
//! that a command writes can be made again by the same command.

mod aligned;
mod giant;
mod gpu;
mod load;
mod mpi;
mod organism;
mod peer;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "xtask", about)]
struct Cli {
    /// Threads; all cores by default
    #[arg(long, global = true)]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the built-in model organism from a seed
    Organism(organism::Options),
    /// Make a small real model that refuses plain harmful questions, and measure it
    Aligned(aligned::Options),
    /// Make a GGUF file of random weights with the shape of a 7B model
    Giant(giant::Options),
    /// Compare training with PyTorch + PEFT, in turn
    Peer(peer::train::Options),
    /// Time and memory of a training step by its tokens
    Scaling(peer::scaling::Options),
    /// Compare generation with Hugging Face's, in turn
    PeerGenerate(peer::generate::Options),
    /// Many clients of the server at once
    Load(load::Options),
    /// Compare benchmark scoring with Hugging Face's, in turn
    PeerScore(peer::score::Options),
    /// Build for CUDA on a machine without a GPU, with a compiler from the Python package index
    CudaCheck(gpu::check::Options),
    /// Train by several ranks with MPI, and check what came of it
    MpiCheck(mpi::Options),
    /// Make a folder that runs the GPU suite on a machine without Rust
    GpuPack(gpu::pack::Options),
    /// Check on a device what the tool does, and measure it beside PyTorch
    GpuSuite(gpu::suite::Options),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    eraser_ops::threads::init(cli.threads);
    tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_target(false).init();
    let result = match cli.command {
        Command::Organism(options) => organism::run(&options),
        Command::Aligned(options) => aligned::run(&options),
        Command::Giant(options) => giant::run(&options),
        Command::Peer(options) => peer::train::run(&options),
        Command::Scaling(options) => peer::scaling::run(&options),
        Command::PeerGenerate(options) => peer::generate::run(&options),
        Command::Load(options) => load::run(&options),
        Command::PeerScore(options) => peer::score::run(&options),
        Command::CudaCheck(options) => gpu::check::run(&options),
        Command::MpiCheck(options) => mpi::run(&options),
        Command::GpuPack(options) => gpu::pack::run(&options),
        Command::GpuSuite(options) => gpu::suite::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for hint in error.hints() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
