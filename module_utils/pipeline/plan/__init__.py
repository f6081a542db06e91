"""Which flavours are missing, which builder builds them, and what became of them."""
