//! The control plane as its clients meet it: in-process, over HTTPS, and after being killed.
mod https;
mod objects;
mod paging;
mod plane;
mod services;
mod watching;
