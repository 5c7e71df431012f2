//! What must always be true, checked from the state alone.
