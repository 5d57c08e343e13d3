package api

// SeedSize is the length of StartRequest.seed in bytes: that of the kernel's own seed.
const SeedSize = 32
