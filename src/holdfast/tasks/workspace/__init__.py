"""What changes in a working directory while a task is at work: seen from outside, in git or by a scan."""
