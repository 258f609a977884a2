"""The scripts behind every figure in the README, and the module with which they all measure."""
