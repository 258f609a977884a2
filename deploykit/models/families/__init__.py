"""The definitions in PyTorch, one family per file, after the papers: image float32 [N, 3, H, W] in, logits out."""
