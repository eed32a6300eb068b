"""What the commands of espnet_rand.bin work with: models of checkpoints, their loss on data."""
