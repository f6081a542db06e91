"""Which flavours are missing, who builds them, is there room, do a run's variables fit, and what came of it."""
