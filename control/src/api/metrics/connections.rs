//! What the listener counts: handshakes that fail, and how long the certificates last that clients come with.
use crate::measures::{Exposition, Histogram, Scale};
use std::sync::atomic::{AtomicU64, Ordering};

/// Upstream's buckets of `apiserver_client_certificate_expiration_seconds`: from half an hour to a year.
static LEFT: [u64; 14] = [
    0, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400, 172_800, 345_600, 604_800, 2_592_000, 7_776_000,
    15_552_000, 31_104_000,
];

#[derive(Debug)]
pub struct Connections {
    failed: AtomicU64,
    left: Histogram<{ LEFT.len() }>,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            failed: AtomicU64::default(),
            left: Histogram::new(Scale::Ones, &LEFT),
        }
    }
}

impl Connections {
    /// A handshake came to nothing.
    pub fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// A request came with a certificate that is good for so many more seconds.
    pub fn shown(&self, left: u64) {
        self.left.add(left);
    }

    pub(super) fn write(&self, out: &mut Exposition) {
        let failed = self.failed.load(Ordering::Relaxed);
        let help = "TLS handshakes that came to nothing.";
        out.single("apiserver_tls_handshake_errors_total", "counter", help, failed);
        let name = "apiserver_client_certificate_expiration_seconds";
        let help = "How long the certificates of clients are still good, at each request.";
        out.begin(name, "histogram", help);
        self.left.write(name, &[], out);
    }
}
