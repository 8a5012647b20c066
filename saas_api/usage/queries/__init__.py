"""Reads of usage; live figures are rollups plus the ledger rows that no roll-up has counted yet."""
