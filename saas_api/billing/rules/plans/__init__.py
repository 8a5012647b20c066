"""Plans before anything is written: what their files say, and what changing one does."""
