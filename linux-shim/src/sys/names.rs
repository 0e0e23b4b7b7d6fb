//! Who is asked for the names of hosts and users. A program that carries its C library may load the modules that nsswitch.conf(5) names
//! only where that library is installed in the same version, and ends where it is another; what it has itself is always there.

/// From now on hosts are looked up in /etc/hosts and by DNS, users in /etc/passwd, by a program that carries its C library; by another
/// one as the host has it.
pub fn ask_built_in_services_only() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files")] {
        // SAFETY: two texts that end with NUL, which the function copies (nss.h). It fails for lack of memory only, and then leaves
        // what is there.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
unsafe extern "C" {
    fn __nss_configure_lookup(database: *const libc::c_char, services: *const libc::c_char) -> libc::c_int;
}
