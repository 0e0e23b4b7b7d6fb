//! What a container's start wants said without failing; the shim logs it.

/// Collected while nothing can be logged (the child has no log), sent with the report.
#[derive(Debug, Default)]
pub struct Warnings(Vec<String>);

impl Warnings {
    pub fn add(&mut self, text: String) {
        self.0.push(text);
    }

    pub fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.0)
    }
}
