//! What a runtime links against.
