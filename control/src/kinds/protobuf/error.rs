//! What can be wrong with a Kubernetes protobuf body, in upstream's words.

/// Why bytes are not a Kubernetes protobuf body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    #[error("empty data")]
    Nothing,
    #[error("empty body")]
    Bare,
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    #[error("unexpected EOF")]
    Short,
    #[error("proto: illegal wireType {0}")]
    WireType(u64),
    #[error("proto: {message}: illegal tag {number} (wire type {wire})")]
    Tag { message: String, number: u64, wire: u64 },
    #[error("proto: field {0} has the wrong wire type")]
    Mismatch(String),
    #[error("proto: messages are nested too deeply")]
    Deep,
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Unknown { version: String, kind: String },
    #[error("proto: embedded JSON cannot be read: {0}")]
    Json(String),
    /// The envelope could be read, and what is in it could not.
    #[error("{why}")]
    Inside {
        version: String,
        kind: String,
        why: Box<ProtobufError>,
    },
}

impl ProtobufError {
    /// Named for the message that it is in.
    pub(super) fn of(self, name: &str) -> Self {
        match self {
            ProtobufError::Tag {
                message,
                number,
                wire,
            } if message.is_empty() => ProtobufError::Tag {
                message: name.rsplit('.').next().unwrap_or_default().to_owned(),
                number,
                wire,
            },
            other => other,
        }
    }
}
