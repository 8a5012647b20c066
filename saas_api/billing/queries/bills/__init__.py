"""Reads of what was billed: documents, explanations of lines, the wallet and credit notes."""
