"""What is missing, which builder builds it, and what to do next."""
