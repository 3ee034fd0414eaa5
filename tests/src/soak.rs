//! The soak: random schedules over the shortcut until so many bytes were checked. A schedule is a
//! burst of connections that run at once; its plan follows from its seed alone, so that the seed of a
//! failure replays what was tried (not when the kernel ran whom).

pub mod burst;
pub mod end;
pub mod plan;
pub mod run;
mod tokio_end;
