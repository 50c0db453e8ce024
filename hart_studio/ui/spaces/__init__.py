"""What only a Hugging Face Space has: private sessions, sign-in, ZeroGPU."""
