//! TLS and HTTP/2, towards clients and towards upstreams.
