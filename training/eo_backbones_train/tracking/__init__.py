"""Where the curves of a run go: TensorBoard, Weights & Biases, MLflow, or several of them."""
