"""What a builder lacks, found before anything is compiled."""
