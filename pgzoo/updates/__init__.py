"""What an update works with: minibatches, losses, metrics, and whom to blame."""
