"""The fuzzer: seeds, mutations that know the formats, a target for each reader, and what they have found."""
