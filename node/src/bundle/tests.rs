//! Tables over `config.json`.
