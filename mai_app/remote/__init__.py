"""What a command needs to run on another machine: its hardware, its price, errors as values."""
