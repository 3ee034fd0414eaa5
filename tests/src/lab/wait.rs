//! Bounded waiting.

use std::{
    env, thread,
    time::{Duration, Instant},
};

use super::{Failure, Result};

/// Polls until `probe` gives a value. On the deadline fails with what was awaited and the last
/// reason why it had not come.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let limit = limit * patience();
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(why) if start.elapsed() >= limit => {
                return Err(Failure(format!("{what}: not within {limit:?}: {why}")));
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 3 / 2).min(Duration::from_millis(50));
    }
}

/// By how much an emulated machine is slower; `cargo xtask vm` says so.
pub fn patience() -> u32 {
    let factor = env::var("UNDERPASS_PATIENCE").ok();
    factor.and_then(|f| f.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_is_told() {
        let limit = Duration::from_millis(20);
        let failure = until::<()>("never", limit, || Err("not yet".into())).unwrap_err();
        assert!(
            failure.0.contains("never") && failure.0.contains("not yet"),
            "{failure}"
        );
    }
}
