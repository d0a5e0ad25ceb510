"""What everything stands on: files, threads, signals, lines on a terminal, devices, figures."""
