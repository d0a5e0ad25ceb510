"""What commands need to run on another machine: hardware and prices, and how settings and errors get there and back."""
