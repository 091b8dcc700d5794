"""Networks, and the recipes by which a file rebuilds them: tensors in, tensors out, no probability."""
