/** What people build on leases, each from the public API of lease-core only. */
export {}
