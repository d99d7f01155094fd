"""Language models: files, tokens, a reference in numpy, and text as it comes."""
