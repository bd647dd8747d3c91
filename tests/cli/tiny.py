"""A configuration that trains in a second."""

TINY = """
num_epochs: 2
data: {name: pendulum, num_steps: 64, batch_size: 8, val_fraction: 0.25, cache: pendulum.npz}
model:
  encoder: {type: Encoder, hidden_dim: 8, input_dim: 3, depth: 1}
  predictor: {type: Predictor, hidden_dim: 8, depth: 1}
trainer: {log_every: 1, progress: false}
"""
STEPS = 12  # 48 of 64 pairs are for training
