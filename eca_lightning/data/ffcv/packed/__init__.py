"""JPEG coefficients without Huffman code, which are read at random: see docs/packed.md."""
